"""The gradient's norm over all processes, and its clipping."""

import math

import torch
from torch import Tensor

from streammix.lab.scale.layouts import Layout


@torch.no_grad()
def clip(layout: Layout, share: Tensor, limit: float, stop: bool) -> tuple[float, float, bool]:
    """Scale gradients down to the norm `limit`; returns the loss, the norm before, and whether a process is to stop.

        norm = sqrt(sum of squares over processes of what each has alone + sum of squares of what all have)

    One all-reduce of four numbers. Gradients that are not finite are left as they are.

    Args:
        share: this process's share of the loss.
        stop: whether this process is to stop after the step.
    """
    alone: list[Tensor] = []
    common: list[Tensor] = []
    for parameter in layout.module.parameters():
        if parameter.grad is not None:
            (alone if layout.apart(parameter) else common).append(local(parameter.grad))
    # What all have is summed too, because processes that round differently must not part.
    loss, stops, *squares = layout.team.sum(share, float(stop), squared(alone), squared(common))
    norm = math.sqrt(squares[0] + squares[1] / layout.team.world)
    if math.isfinite(norm) and norm > limit and (alone or common):
        torch._foreach_mul_(alone + common, limit / (norm + 1e-6))
    return loss, norm, stops > 0


def squared(tensors: list[Tensor]) -> Tensor | float:
    """The sum of the squares of all numbers in these."""
    if not tensors:
        return 0.0
    return torch.stack(torch._foreach_norm(tensors)).double().square().sum()


def local(tensor: Tensor) -> Tensor:
    """What of it is in this process."""
    here: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here
