"""A run's weights and moments by their names in the whole model, as any number of processes can read them."""

from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from streammix.lab.config import Config
from streammix.lab.model import GPT
from streammix.lab.scale.layouts import Layout
from streammix.lab.training import sharded
from streammix.lab.training.checkpoint import require_shapes


def tensors_to_save(layout: Layout, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """This process's part of a checkpoint: its shards, and its share of what all processes have alike."""
    team, found = layout.team, {}
    for index, (name, parameter) in enumerate(layout.module.named_parameters()):
        state = optimizer.state.get(parameter, {})
        mine = layout.apart(parameter) or index % team.world == team.rank
        for key in ("", *sharded.MOMENTS):
            tensor = state.get(key, torch.zeros_like(parameter)) if key else parameter
            whole = layout.saved(name, tensor.detach())  # sends where it must, in all processes
            if mine:
                found[f"{key}.{name}" if key else name] = plain_if_whole(whole)
    return found


def plain_if_whole(tensor: Tensor) -> Tensor:
    """A replicated DTensor as a plain tensor."""
    if isinstance(tensor, DTensor) and not any(placement.is_shard() for placement in tensor.placements):
        return tensor.to_local()
    return tensor


@torch.no_grad()
def restore(layout: Layout, optimizer: torch.optim.Optimizer, folder: Path, step: int) -> None:
    """Fill the model's part and the optimizer with a checkpoint's tensors, each process reading what it has.

    Raises:
        LabError: in all processes, a tensor is missing or of another shape for one; nothing has been changed then.
    """
    blank: dict[str, Tensor] = {}
    for name, parameter in layout.module.named_parameters():
        form = plain_if_whole(layout.saved(name, parameter.detach()))
        blank |= {key: torch.empty_like(form) for key in (name, *(f"{moment}.{name}" for moment in sharded.MOMENTS))}
    shapes = {name: tensor.shape for name, tensor in blank.items()}
    layout.team.agree(lambda: require_shapes(shapes, on_disk(folder, blank), folder))
    sharded.load(blank, folder, layout.team.words)

    def as_here(name: str, tensor: Tensor, like: Tensor) -> Tensor:
        if isinstance(like, DTensor) and not isinstance(tensor, DTensor):
            tensor = distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
        return layout.loaded(name, tensor)

    for name, parameter in layout.module.named_parameters():
        parameter.copy_(as_here(name, blank[name], parameter))
        if step:
            moments = {moment: as_here(name, blank[f"{moment}.{name}"], parameter) for moment in sharded.MOMENTS}
            optimizer.state[parameter] = moments | {"step": torch.tensor(float(step), device=parameter.device)}


def on_disk(folder: Path, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint has of these, as tensors without memory."""
    shapes = sharded.described(folder)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if name in wanted}


def described_model(config: Config) -> GPT:
    """The whole model without memory, for its names and shapes."""
    with torch.device("meta"):
        return GPT(config)
