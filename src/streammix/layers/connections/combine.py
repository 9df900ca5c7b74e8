"""What connections off the fast path share: weighted sums of rows, diagonal matrices, a check of outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..._precision import full_precision
from ...ops import sharding


def combine(
    weights: Float[Tensor, "*batch a b"], parts: Sequence[Float[Tensor, "*batch _ width"]], dtype: torch.dtype
) -> Float[Tensor, "*batch a width"]:
    """weights @ (the parts one below the other), summed in float32 at least and returned in `dtype`."""
    wide = torch.promote_types(weights.dtype, dtype)
    with full_precision(weights):
        return (weights.to(wide) @ torch.cat([part.to(wide) for part in parts], -2)).to(dtype)


def diagonal(weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
    """diag(weights)."""
    if sharding.is_sharded(weights):  # DTensor's own diag_embed gathers the tokens first
        return sharding.by_tokens(torch.diag_embed, weights)
    return weights.diag_embed()


def check_output(branch: Any, y: Tensor, batch: Sequence[int], dim: int) -> None:
    """Raise ValueError unless the branch's output is (*batch, C)."""
    if y.shape != (*batch, dim):
        raise ValueError(f"branch: {type(branch).__name__} returned shape {tuple(y.shape)}; accepted: {(*batch, dim)}")
