"""Logits that every group of channels makes of its own slice of the streams."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ... import ops
from ..._parameters import assign, assign_normal, parameter_dtype
from ..._precision import full_precision
from ...ops import sharding
from ...ops.eager.site import inverse_rms
from .base import Generator, Start
from .flattened import eps_of_norm, one_pass


class PerGroup(Generator):
    """Logits from slices of the state, each normalised by itself (uHC, OpenReview Qnj7Lf8Bz2):

        logits_g = gate (phi_g vec(x_g)) / rms(vec x_g) + b_g,    rms(v) = sqrt(mean v^2 + norm_eps)

    Args:
        width: of a group of channels.
        streams: n.
        groups: G.
        size: how many logits a group has.
        norm_eps: added to the mean square; None as in Flattened.
        start: see Start; its bias is for all groups, one after the other.

    Parameters:
        weight (G, size, n width), columns ordered stream by stream; bias (G size); gate (1).

    Call: x (..., G n, width), the streams of one group after those of another -> logits (..., G size), in a tuple.
    """

    def __init__(
        self, width: int, streams: int, groups: int, size: int, norm_eps: float | None, *, start: Start
    ) -> None:
        super().__init__()
        self.groups, self.norm_eps, self.start = groups, norm_eps, start
        dtype = parameter_dtype()
        self.weight = nn.Parameter(torch.empty(groups, size, streams * width, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(groups * size, dtype=dtype))
        self.gate = nn.Parameter(torch.empty(1, dtype=dtype))
        self.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch Gn width"]) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(self.weight.dtype, x.dtype)
        with full_precision(x):
            normed = self._normed(x.unflatten(-2, (self.groups, -1)), self.weight.to(dtype))
            return (self.gate.to(dtype) * normed.flatten(-2) + self.bias.to(dtype),)

    def _normed(self, x: Float[Tensor, "*batch G n width"], weight: Tensor) -> Float[Tensor, "*batch G size"]:
        """Each slice over its rms, times its own rows of the weight."""
        eps = eps_of_norm(self.norm_eps, weight.dtype)
        if one_pass(x, weight.dtype) and not sharding.is_sharded(x):  # DTensor gathers tokens for a diagonal
            # Of the rows of all groups, because one operator with G times the products takes less time than several.
            all_rows = ops.coefficients(x, weight.flatten(0, 1), eps)[0].unflatten(-1, weight.shape[:2])
            return all_rows.diagonal(dim1=-3, dim2=-2).mT
        slices = x.flatten(-2).to(weight.dtype)
        return torch.einsum("...gk,gmk->...gm", slices, weight) * inverse_rms(slices, eps).unsqueeze(-1)

    def reset_parameters(self) -> None:
        assign_normal(self.weight, self.start.weight_std)
        assign(self.bias, self.start.bias)
        assign(self.gate, self.start.gate)
