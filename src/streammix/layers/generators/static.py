"""Logits that no token changes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..._parameters import assign, parameter_dtype
from .base import Generator, Start


class Static(Generator):
    """Logits that do not depend on the state: b."""

    def __init__(self, sizes: Sequence[int], *, start: Start) -> None:
        super().__init__()
        self.sizes, self.start = tuple(sizes), start
        self.bias = nn.Parameter(torch.empty(sum(sizes), dtype=parameter_dtype()))
        self.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch n C"]) -> tuple[Tensor, ...]:
        bias = self.bias.to(torch.promote_types(self.bias.dtype, x.dtype))
        return tuple(b.expand(*x.shape[:-2], size) for b, size in zip(bias.split(self.sizes), self.sizes))

    def reset_parameters(self) -> None:
        assign(self.bias, self.start.bias)
