"""Small matrices are made in float32 at least; so are the parameters they are made from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def parameter_dtype() -> torch.dtype:
    """The default dtype, float32 at least."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, of a's dtype, in float64 where the device has it.

    Products that carry a guarantee are taken so: torch.set_float32_matmul_precision lets those of float32 round their
    factors to TF32 or bfloat16.
    """
    if a.is_mps:
        return a @ b
    return (a.double() @ b.double()).to(a.dtype)


class AtLeastFloat32(nn.Module):
    """Floating point parameters and buffers stay in float32 at least: `.half()` and `.bfloat16()` on the model pass
    them by, because a mixing matrix made in bfloat16 is hundreds of times less stochastic."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def at_least_float32(t: Tensor) -> Tensor:
            out = fn(t)
            narrowed = out.is_floating_point() and out.itemsize < 4 and t.itemsize >= 4
            return torch.empty_like(out, dtype=t.dtype).copy_(t) if narrowed else out

        return super()._apply(at_least_float32, recurse)
