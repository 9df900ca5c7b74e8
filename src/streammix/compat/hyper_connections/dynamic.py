"""Hyper-connections' weights, which tanh bounds: static parts and what each stream adds to them (arXiv 2409.19606)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .norm import projected

Activation = Callable[[Tensor], Tensor]


def weights(
    x: Tensor, gamma: Tensor, weight: Tensor, act: Activation, scale: Tensor, static: Tensor, split: int, dim: int
) -> tuple[Tensor, Tensor]:
    """act(RMSNorm(x) @ weight) * scale, before column `split` and from it on, static being added to the first part.

    x (..., R, d), its rows in `dim`, weight (d, k), scale (k), static (R, split), all computed in float32 at least;
    returns (..., R, split), (..., R, k - split).
    """
    made = projected(x, gamma, weight, dim)
    made = act(made) * scale.to(made.dtype)
    return made[..., :split] + static.to(made.dtype), made[..., split:]


def spread(*parts: tuple[Tensor, int]) -> Tensor:
    """Scalars, each repeated as often as it is said, in one vector."""
    return torch.cat([scalar.reshape(1).expand(count) for scalar, count in parts])
