"""A branch's output and its recent past, as orthogonal directions to write along."""

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..functional import full_precision
from ..manifolds.precision import AtLeastFloat32, parameter_dtype

#: A direction whose square is this small a part of what it was before the others were taken out counts as none: what is
#: left of it is rounding.
NEGLIGIBLE = 1e-10


class TemporalBasis(AtLeastFloat32):
    """y and causal depthwise convolutions of y over time, made orthogonal (xHC, arXiv 2607.14530).

        g_j[t] = sum_i w_j[i] * y[t - i],   i = 0 .. length_j - 1,  y = 0 before the first token
        v_1 = y,   v_{j+1} = g_j - sum_{i <= j} (<g_j, v_i> / <v_i, v_i>) v_i        modified Gram-Schmidt, per token

    Args:
        dim: C.
        lengths: of the filters, in tokens.
        time_axis: of y, which is not the last.

    Attributes:
        size: 1 + the number of filters.

    Parameters:
        filters.j (length_j, C), zero at the start: a new basis is y alone.

    Raises:
        ValueError: lengths that are not integers >= 1, or the last axis. At the call: y has no such axis.

    Call: basis(y) with y (..., C) -> (..., size, C), in float32 at least.
    """

    def __init__(self, dim: int, lengths: Sequence[int] = (), time_axis: int = -2) -> None:
        super().__init__()
        if any(isinstance(length, bool) or not isinstance(length, int) or length < 1 for length in lengths):
            raise ValueError(f"temporal: got filter lengths {tuple(lengths)!r}; accepted: integers >= 1")
        if isinstance(time_axis, bool) or not isinstance(time_axis, int) or time_axis == -1:
            raise ValueError(f"time_axis: got {time_axis!r}; accepted: an integer other than -1, the features' axis")
        self.size, self.time_axis = 1 + len(lengths), time_axis
        self.filters = nn.ParameterList(torch.empty(length, dim, dtype=parameter_dtype()) for length in lengths)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            for weight in self.filters:
                weight.zero_()

    def forward(self, y: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch basis C"]:
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        if not len(self.filters):
            return y.unsqueeze(-2)
        with full_precision(y):
            return torch.stack(orthogonal([y, *(self.convolved(y, weight) for weight in self.filters)]), -2)

    def convolved(self, y: Float[Tensor, "*batch C"], weight: Float[Tensor, "length C"]) -> Float[Tensor, "*batch C"]:
        axis = self.time_axis + y.ndim if self.time_axis < 0 else self.time_axis
        if not 0 <= axis < y.ndim - 1:
            raise ValueError(
                f"y: got shape {tuple(y.shape)} from the branch; causal filters need a time axis {self.time_axis}"
                " before the features"
            )
        length, tokens = len(weight), y.shape[axis]
        padded = F.pad(y, (*[0, 0] * (y.ndim - 1 - axis), length - 1, 0))
        past = (padded.narrow(axis, length - 1 - i, tokens) * weight[i].to(y.dtype) for i in range(length))
        return reduce(torch.add, past)


def orthogonal(vectors: Sequence[Float[Tensor, "*batch C"]]) -> list[Float[Tensor, "*batch C"]]:
    """Modified Gram-Schmidt without normalisation; what is left of a dependent vector is not divided by."""
    basis: list[Tensor] = []
    squares: list[Tensor] = []
    for vector in vectors:
        least = NEGLIGIBLE * vector.square().sum(-1, keepdim=True).detach()
        v = vector
        for other, square in zip(basis, squares):
            v = v - (v * other).sum(-1, keepdim=True) / square * other
        basis.append(v)
        squares.append(torch.maximum(v.square().sum(-1, keepdim=True), least).clamp(min=torch.finfo(v.dtype).tiny))
    return basis
