"""Checkpoints that several processes wrote, each its shards: torch.distributed.checkpoint's, in safetensors files.

RUN/checkpoints/step-000200/shard-00001-model-00001-of-00001.safetensors   "NAME", "exp_avg.NAME", "exp_avg_sq.NAME"
                            state.json                                     as the other format's, "format": 3

A file's own header says which part of each tensor it has, so any number of processes can read what any other wrote.
"""

import contextlib
import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from streammix.lab.errors import LabError
from streammix.lab.files import naming

FORMAT = 3
SUFFIX = ".safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def describe(folder: Path) -> dict[str, Any]:
    """Bytes and hash of every file of shards, by name, as state.json has them."""
    return {path.name: signature(path) for path in sorted(folder.glob(f"*{SUFFIX}"))}


def signature(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with naming(path), open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def verify(folder: Path, files: Mapping[str, Any]) -> None:
    """Raise LabError unless the folder's shards are those that state.json lists."""
    names = {path.name for path in folder.glob(f"*{SUFFIX}")}
    for name, expected in files.items():
        if name not in names:
            raise LabError(f"{folder / name}: corrupt checkpoint (the file is missing)")
        size = (folder / name).stat().st_size
        if size != expected["bytes"]:
            raise LabError(f"{folder / name}: corrupt checkpoint ({size} bytes; {expected['bytes']} were written)")
        if signature(folder / name)["sha256"] != expected["sha256"]:
            raise LabError(f"{folder / name}: corrupt checkpoint (its content differs from what was written)")
    if unknown := sorted(names - files.keys()):
        raise LabError(f"{folder / unknown[0]}: corrupt checkpoint (no file of this checkpoint)")


def read(folder: Path, files: Mapping[str, Any], step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The whole weights and AdamW's state, as the format of one process has them, from verified shards.

    Raises:
        LabError: a file is missing, cut short or altered.
    """
    verify(folder, files)
    shapes = described(folder)
    if sum(4 * math.prod(shape) for shape in shapes.values()) > sum(file["bytes"] for file in files.values()):
        raise LabError(f"{folder}: corrupt checkpoint (its tensors are larger than its files)")
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    load(tensors, folder)
    moments = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in MOMENTS}
    weights = {name: tensor for name, tensor in tensors.items() if name not in moments}
    counts = {f"step.{name}": torch.tensor(float(step)) for name in weights}
    return weights, moments | counts


def described(folder: Path) -> dict[str, torch.Size]:
    """The shape of every tensor in the folder's files, none of which is read further than its header."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    with said_plainly(folder):
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        return {name: tensor.size for name, tensor in found.items()}  # type: ignore[union-attr]


def load(tensors: dict[str, Tensor], folder: Path, group: dist.ProcessGroup | None = None) -> None:
    """Fill tensors and DTensors, this process's part of them, from a checkpoint's files; together with the group.

    Raises:
        LabError: a tensor is missing or of another shape.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_together

    with said_plainly(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        reader = HuggingFaceStorageReader(str(folder))
        load_together(tensors, storage_reader=reader, process_group=group, no_dist=group is None)


@contextlib.contextmanager
def said_plainly(folder: Path) -> Iterator[None]:
    """Turns what reading shards raises into one line."""
    try:
        yield
    except BaseException as error:  # torch.distributed.checkpoint's own is no Exception
        for cause in causes(error):
            if isinstance(cause, SafetensorError | KeyError | ValueError | AssertionError | TypeError):
                reason = " ".join(str(cause).split())
                raise LabError(f"{folder}: corrupt checkpoint ({reason})") from None
        raise


def causes(error: BaseException) -> Iterator[BaseException]:
    """What torch.distributed.checkpoint says went wrong in each process; else the error itself."""
    failures: Mapping[int, Any] = getattr(error, "failures", {})
    if not failures:
        yield error
    for failure in failures.values():
        yield failure[0] if isinstance(failure, tuple) else failure
