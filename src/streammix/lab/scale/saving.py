"""Checkpoints that are written while the training goes on."""

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.files import discard_folder, scratch_beside, sync_folder, write_json
from streammix.lab.scale.layouts import Layout
from streammix.lab.scale.state import tensors_to_save
from streammix.lab.scale.team import Team
from streammix.lab.training import sharded
from streammix.lab.training.checkpoint import KEPT, STATE, digest, steps


class Saver:
    """Writes one checkpoint after the other, each while later steps run.

    Tensors are copied at once, and written by a thread of each process into a folder that no reader looks at. When all
    have written, the first process signs the files and renames the folder: a checkpoint is whole or not there, however
    the processes end. `finish` waits for it, and says in all processes what went wrong in one.
    """

    def __init__(self, run: Path, config: Config, team: Team) -> None:
        self.run, self.config, self.team = run, config, team
        self.pending: Future[None] | None = None
        self.ends = ThreadPoolExecutor(1, "checkpoint")

    def start(self, step: int, layout: Layout, optimizer: torch.optim.Optimizer, counters: Mapping[str, Any]) -> Path:
        """Begin to write RUN/checkpoints/step-NNNNNN, once the one before it is written."""
        self.finish()
        path = self.run / "checkpoints" / f"step-{step:06d}"
        scratch = self.team.ask_first(lambda: made_beside(path))
        state = {"format": sharded.FORMAT, "step": step, "config": self.config.to_dict(), "counters": dict(counters)}
        state["processes"] = {"parallel": layout.scale.parallel, "world": self.team.world}
        writer = HuggingFaceStorageWriter(str(scratch), save_distributed=True)
        tensors = tensors_to_save(layout, optimizer)
        written: Any = async_save(tensors, storage_writer=writer, process_group=self.team.writers)
        self.pending = self.ends.submit(self.end, written, scratch, path, state)
        return path

    def end(self, written: "Future[Any]", scratch: Path, path: Path, state: dict[str, Any]) -> None:
        """In a thread: wait for all processes' shards; in the first, make them a checkpoint."""
        try:
            written.result()
            if self.team.first:
                state["files"] = sharded.describe(scratch)
                write_json(scratch / STATE, state | {"sha256": digest(state)})
                sync_folder(scratch)
                if path.exists():
                    discard_folder(path)
                scratch.rename(path)
                sync_folder(path.parent)
                for old in steps(self.run)[:-KEPT]:
                    discard_folder(old)
        except BaseException as error:
            if self.team.first:
                shutil.rmtree(scratch, ignore_errors=True)
            raise user_error(error, path) from error

    def finish(self) -> None:
        """Wait until what was begun is a checkpoint.

        Raises:
            OSError, LabError: in all processes, where one could not write.
        """
        pending, self.pending = self.pending, None
        if pending is not None:
            self.team.agree(pending.result)


def made_beside(path: Path) -> Path:
    scratch = scratch_beside(path)
    scratch.mkdir(parents=True)
    return scratch


def user_error(error: BaseException, path: Path) -> BaseException:
    """What a process could not do when it wrote, of all that torch.distributed.checkpoint says about it."""
    for cause in sharded.causes(error):
        if isinstance(cause, OSError):
            return OSError(cause.errno, cause.strerror or str(cause), cause.filename or str(path))
        if "SafetensorError" in type(cause).__name__:
            return LabError(f"{path}: cannot be written ({cause})")
    return error
