"""Checkpoints: a folder of weights, optimizer state and config that is either whole or not there.

RUN/checkpoints/step-000200/weights.safetensors      the model's state_dict
                            optimizer.safetensors    AdamW's "exp_avg.NAME", "exp_avg_sq.NAME", "step.NAME"
                            state.json               step, counters, config, the two files' hashes, its own hash
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from streammix.lab.config import Config, from_dict
from streammix.lab.errors import LabError
from streammix.lab.files import discard_folder, new_folder, read_json, write_durably, write_json
from streammix.lab.model import GPT
from streammix.lab.training import sharded

FORMAT = 2  # 1 had no digest of state.json
KEPT = 2
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
ADAMW_STATE = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been read and agree with their hashes."""

    path: Path
    step: int
    config: Config
    counters: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save(run: Path, step: int, model: GPT, optimizer: torch.optim.Optimizer, counters: Mapping[str, Any]) -> Path:
    """Write RUN/checkpoints/step-NNNNNN in one step, then delete all but the newest two.

    Raises:
        OSError: the disk is full or not writable; earlier checkpoints are untouched and nothing is left behind.
    """
    path = run / "checkpoints" / f"step-{step:06d}"
    moments = {
        f"{key}.{name}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        for key in ADAMW_STATE
    }
    with new_folder(path) as folder:
        files = {}
        for name, tensors in ((WEIGHTS, model.state_dict()), (OPTIMIZER, moments)):
            content = tensors_to_bytes({key: tensor.detach().contiguous() for key, tensor in tensors.items()})
            write_durably(folder / name, content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        state = {"format": FORMAT, "step": step, "config": model.config.to_dict(), "counters": dict(counters)}
        state["files"] = files
        write_json(folder / STATE, state | {"sha256": digest(state)})
    for old in steps(run)[:-KEPT]:
        discard_folder(old)
    return path


def digest(state: Mapping[str, Any]) -> str:
    """The hash of a state without its own."""
    own = {name: value for name, value in state.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def steps(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, not yet examined."""
    found = [path for path in (run / "checkpoints").glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def read(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        LabError: a file is missing, cut short, altered or of another format; says which and how.
    """
    state = read_json(path / STATE)
    try:
        if state["format"] not in (FORMAT, sharded.FORMAT):
            raise LabError(f"{path}: checkpoint format is {state['format']}; this version reads format {FORMAT}")
        if path.name.startswith("step-") and path.name != f"step-{state['step']:06d}":
            raise LabError(f"{path}: corrupt checkpoint (it is of step {state['step']})")
        config = from_dict(state["config"], path / STATE)
        if state["sha256"] != digest(state):
            raise LabError(f"{path / STATE}: corrupt checkpoint (its content differs from what was written)")
        if state["format"] == sharded.FORMAT:
            weights, optimizer = sharded.read(path, state["files"], state["step"])
        else:
            weights, optimizer = (read_verified(path / name, state["files"][name]) for name in (WEIGHTS, OPTIMIZER))
        return Checkpoint(path, state["step"], config, state["counters"], weights, optimizer)
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(f"{path / STATE}: corrupt checkpoint ({error} is missing or of the wrong kind)") from None


def read_verified(path: Path, expected: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LabError(f"{path}: corrupt checkpoint (the file is missing)") from None
    if len(content) != expected["bytes"]:
        raise LabError(f"{path}: corrupt checkpoint ({len(content)} bytes; {expected['bytes']} were written)")
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise LabError(f"{path}: corrupt checkpoint (its content differs from what was written)")
    try:
        return tensors_from_bytes(content)
    except SafetensorError as error:
        raise LabError(f"{path}: corrupt checkpoint ({error})") from None


def latest(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that can be read, and what was wrong with newer ones.

    Raises:
        LabError: there are checkpoints and none can be read.
    """
    troubles: list[str] = []
    for path in reversed(steps(run)):
        try:
            return read(path), troubles
        except LabError as error:
            troubles.append(str(error))
    if troubles:
        raise LabError(troubles[0])
    return None, []


def restore(checkpoint: Checkpoint, model: GPT, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Copy a checkpoint's tensors into a model and, where given, its optimizer.

    Raises:
        LabError: a tensor is missing, unknown or of another shape; nothing has been changed then.
    """
    here = model.state_dict()
    require_shapes({name: tensor.shape for name, tensor in here.items()}, checkpoint.weights, checkpoint.path / WEIGHTS)
    parameters = dict(model.named_parameters())
    if optimizer is not None:
        shapes = {
            f"{key}.{name}": torch.Size() if key == "step" else parameter.shape
            for name, parameter in parameters.items()
            for key in ADAMW_STATE
        }
        require_shapes(shapes, checkpoint.optimizer, checkpoint.path / OPTIMIZER)
        for name, parameter in parameters.items():
            optimizer.state[parameter] = {
                key: checkpoint.optimizer[f"{key}.{name}"].to(parameter.device) for key in ADAMW_STATE
            }
    model.load_state_dict(checkpoint.weights)


def require_shapes(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], path: Path) -> None:
    if missing := sorted(expected.keys() - found.keys()):
        raise LabError(f"{path}: corrupt checkpoint (missing: {', '.join(missing[:3])}; {len(missing)} in all)")
    if unknown := sorted(found.keys() - expected.keys()):
        raise LabError(f"{path}: corrupt checkpoint (unknown: {', '.join(unknown[:3])}; {len(unknown)} in all)")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise LabError(
                f"{path}: corrupt checkpoint ({name} has shape {tuple(found[name].shape)}, not {tuple(shape)})"
            )


def load_model(path: Path) -> tuple[GPT, Config]:
    """The trained model, in eval mode on the CPU, and its config.

    Args:
        path: a checkpoint folder, or a run's folder: then its newest readable checkpoint.

    Raises:
        LabError: there is no checkpoint, or it is corrupt.
    """
    path = Path(path)
    if (path / STATE).exists():
        checkpoint: Checkpoint | None = read(path)
    elif path.is_dir():
        checkpoint, _ = latest(path)
    else:
        raise LabError(f"{path}: no such run or checkpoint")
    if checkpoint is None:
        raise LabError(f"{path}: neither a checkpoint nor a run that has one")
    require_size(checkpoint)
    model = GPT(checkpoint.config)
    restore(checkpoint, model)
    return model.eval(), checkpoint.config


def require_size(checkpoint: Checkpoint) -> None:
    """Raise LabError unless the weights are those of the config's model, before any memory is taken for it."""
    where, config = checkpoint.path / WEIGHTS, checkpoint.config
    if 2 * config.layers > len(checkpoint.weights):
        raise LabError(
            f"{where}: corrupt checkpoint ({len(checkpoint.weights)} tensors cannot be those of {config.layers} layers)"
        )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    require_shapes(shapes, checkpoint.weights, where)
