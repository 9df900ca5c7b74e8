"""Reads by weights that each stream makes of itself, in one operator with what the write will need."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops
from ..._precision import full_precision
from ...layers.generators.flattened import one_pass
from ...ops import ACTIVATION_CODES
from .norm import LEAST_NORM, scaled_weight


@dataclass(frozen=True)
class RowWeights:
    """read, write and mix of stream j: of scale o act(RMSNorm(x_j) @ weight) + static_j, columns in this order.

    weight: (D, s + 2).
    scale: (s + 2).
    static: (s, s + 2).
    tanh: whether act is tanh, or the identity.
    sigmoid: whether reads go through a sigmoid and writes through twice a sigmoid, or both are as they come.
    """

    weight: Tensor
    scale: Tensor
    static: Tensor
    tanh: bool
    sigmoid: bool


def in_order(reads_and_mix: Tensor, write: Tensor) -> Tensor:
    """(..., 1 + s) and (...) -> (..., s + 2): read, write, mix."""
    read, mix = reads_and_mix.split((1, reads_and_mix.shape[-1] - 1), -1)
    return torch.cat([read, write.unsqueeze(-1), mix], -1)


def read(x: Tensor, gamma: Tensor, weights: RowWeights, dim: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """x (..., s, D), its streams in `dim` -> u (..., D), write weights (..., s), mix (..., s, s), row j from stream j.

    None where the operator does not serve these streams or parameters. gamma and |x|: as in `norm.projected`.
    """
    dtype = torch.promote_types(torch.promote_types(weights.weight.dtype, x.dtype), torch.float32)
    if not one_pass(x, dtype):
        return None
    codes = ("sigmoid", "twice-sigmoid") if weights.sigmoid else ("linear", "linear")
    with full_precision(x):
        weight = scaled_weight(gamma, weights.weight, dtype)
        scale, static = weights.scale.to(dtype), weights.static.to(dtype)
    return ops.rows_site_read(
        *(x, weight, scale, static, LEAST_NORM**2 / x.shape[-1], weights.tanh),
        *(ACTIVATION_CODES[code] for code in codes),
        *(0.0, 1.0, 0.0, dim - x.ndim if dim >= 0 else dim),
    )
