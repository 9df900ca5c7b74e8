"""What connections on segments of a state, or on some of many streams, share: combining, running the branch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..functional import full_precision


def combine(
    weights: Float[Tensor, "*batch a b"], parts: Sequence[Float[Tensor, "*batch _ width"]], dtype: torch.dtype
) -> Float[Tensor, "*batch a width"]:
    """weights @ (the parts one below the other), summed in float32 at least and returned in `dtype`."""
    wide = torch.promote_types(weights.dtype, dtype)
    with full_precision(weights):
        return (weights.to(wide) @ torch.cat([part.to(wide) for part in parts], -2)).to(dtype)


def run_branch(
    branch: Callable[..., Any], u: Float[Tensor, "*batch C"], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Float[Tensor, "*batch C"]:
    """branch(u, ...), which must be one tensor of u's shape.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another shape.
    """
    y = branch(u, *args, **kwargs)
    if not isinstance(y, Tensor):
        raise TypeError(f"branch: {type(branch).__name__} returned a {type(y).__name__}; accepted: one tensor")
    if y.shape != u.shape:
        raise ValueError(f"branch: {type(branch).__name__} returned shape {tuple(y.shape)}; accepted: {tuple(u.shape)}")
    return y
