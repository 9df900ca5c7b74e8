"""Small matrices and coefficients are computed in float32 at least, whatever the streams' dtype."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """What streams of a dtype are summed in, and their coefficients come in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_enabled(tensor: Tensor) -> bool:
    """Whether autocast is on for the tensor's device; never on meta, which has none."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Autocast off for x's device, where it is on."""
    return torch.autocast(x.device.type, enabled=False) if autocast_enabled(x) else nullcontext()


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, of a's dtype, in float64 where the device has it.

    Products that carry a guarantee are taken so, because torch.set_float32_matmul_precision lets those of float32 round
    their factors to TF32 or bfloat16.
    """
    if a.is_mps:
        return a @ b
    return (a.double() @ b.double()).to(a.dtype)
