"""Singular values of mixing matrices, of their products and of whole Jacobians."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import check_floating, widened, widened_square


def singular_values(matrices: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
    """Singular values, largest first; NaN for a matrix that is not finite (LAPACK would refuse the batch)."""
    matrices = widened_square("matrices", matrices)
    finite = matrices.isfinite().flatten(-2).all(-1)
    values = torch.linalg.svdvals(torch.where(finite[..., None, None], matrices, 0))
    return torch.where(finite[..., None], values, torch.nan)


def effective_rank(values: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """exp(-Σ p ln p) with p = σ / Σσ, from 1 to k: over how many directions the singular values spread.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007; DepthBench's figures for residual paths are presumably
    of this form. Zero where every value is.

    Args:
        values: singular values, >= 0, in any order, such as `singular_values` of a composite map.
    """
    values = widened("values", values, 1, "(..., k)")
    total = values.sum(-1, keepdim=True)
    p = values / torch.where(total == 0, 1, total)
    return torch.where(total[..., 0] == 0, 0, torch.special.entr(p).sum(-1).exp())


def collapsed_share(values: Float[Tensor, "*batch k"], threshold: float = 1e-3) -> Float[Tensor, "*batch"]:
    """Share of the singular values below `threshold` times the largest: JPmHC's "spectral stalling" (arXiv 2602.18308).

    The paper says how large a share lies near zero and leaves open what is near.
    """
    values = widened("values", values, 1, "(..., k)")
    least = threshold * values.amax(-1, keepdim=True)
    share = (values < least).to(values.dtype).mean(-1)
    return torch.where(values.isfinite().all(-1), share, torch.nan)


def jacobian_spectrum(
    function: Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]], x: Float[Tensor, "..."]
) -> Float[Tensor, " k"]:
    """Singular values of d function(x) / dx, largest first (arXiv 2602.18308): what a layer or a stack does to small
    changes of its state, its branches included.

    The Jacobian is written out: for streams (..., n, C) of T tokens it has (T n C)² entries, so x should be one token
    or few, and the model small.

        state = stack.begin(x)
        sm.diagnostics.jacobian_spectrum(stack.run, state)

    Args:
        function: differentiable, from one tensor to one tensor.
        x: where to take the Jacobian.

    Raises:
        TypeError: x is not a floating tensor, or the function returned something else than a tensor.
    """
    check_floating("x", x)

    def checked(x: Tensor) -> Tensor:
        out = function(x)
        if not isinstance(out, Tensor):
            raise TypeError(f"function: returned a {type(out).__name__}; accepted: a function to one tensor")
        return out

    jacobian = torch.autograd.functional.jacobian(checked, x.detach())
    out = jacobian.numel() // max(1, x.numel())
    matrix = jacobian.reshape(out, x.numel())
    if not matrix.isfinite().all():
        return matrix.new_full((min(matrix.shape),), torch.nan)
    return torch.linalg.svdvals(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))
