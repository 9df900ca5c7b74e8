"""What every diagnostic asks of its input, in one place and one wording."""

import torch
from jaxtyping import Float
from torch import Tensor


def floating(name: str, value: Tensor, ndim: int, shape: str) -> Tensor:
    """`value` in float32 at least.

    Raises:
        TypeError: not a tensor, or not of a real floating dtype.
        ValueError: fewer than `ndim` dimensions, or no streams.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}; accepted: a tensor of shape {shape}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: got {value.dtype}; accepted: a floating dtype")
    if value.ndim < ndim or 0 in value.shape[value.ndim - ndim :]:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}; accepted: {shape} with n >= 1")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def square(name: str, value: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """`value` as matrices in float32 at least. Raises as `floating` does, and where they are not square."""
    value = floating(name, value, 2, "(..., n, n)")
    if value.shape[-1] != value.shape[-2]:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}; accepted: (..., n, n), square matrices")
    return value
