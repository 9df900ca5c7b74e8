"""How far mixing matrices are from doubly stochastic, and from orthogonal: per matrix, any leading shape.

Computed in float64, so that what is measured is the matrix's own error and not the measuring sum's.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import widened_square


def marginal_error(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """‖T1 - 1‖₁ + ‖Tᵀ1 - 1‖₁, the sum of the absolute errors of all n row sums and n column sums.

    Source: arXiv 2606.07574.

    Args:
        res: matrices T, any floating dtype.

    Returns:
        float64; zero for matrices whose rows and columns sum to one.
    """
    rows, columns = deviations(res)
    return rows.abs().sum(-1) + columns.abs().sum(-1)


def row_deviation(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """max_i |Σ_j T[i, j] - 1|, in float64. Zero: what the streams have in common is kept as it is."""
    return deviations(res)[0].abs().amax(-1)


def column_deviation(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """max_j |Σ_i T[i, j] - 1|, in float64. Zero: the sum of the streams is kept as it is."""
    return deviations(res)[1].abs().amax(-1)


def row_sums(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
    """Σ_j T[i, j] of each row i, in float64: how much stream i receives in all."""
    return widened_square("res", res).double().sum(-1)


def column_sums(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
    """Σ_i T[i, j] of each column j, in float64: how much of stream j is passed on in all.

    What arXiv 2601.05732 and 2601.21579 show as boxes over tokens and sites, of single matrices and of products.
    """
    return widened_square("res", res).double().sum(-2)


def row_mae(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Mean over rows of |row sum - 1|, in float64."""
    return deviations(res)[0].abs().mean(-1)


def column_mae(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Mean over columns of |column sum - 1|, in float64 (arXiv 2601.21579)."""
    return deviations(res)[1].abs().mean(-1)


def min_entry(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """min_ij T[i, j], in float64; below zero outside the Birkhoff polytope."""
    return widened_square("res", res).double().flatten(-2).amin(-1)


def orthogonality_error(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """‖TᵀT - I‖_max = max_ij |(TᵀT - I)[i, j]|, in float64; zero for a matrix that keeps every length."""
    res = widened_square("res", res).double()
    error = res.mT @ res - torch.eye(res.shape[-1], dtype=res.dtype, device=res.device)
    return error.flatten(-2).abs().amax(-1)


def deviations(
    res: Float[Tensor, "*batch n n"],
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """T1 - 1 and Tᵀ1 - 1, signed, in float64."""
    res = widened_square("res", res).double()
    return res.sum(-1) - 1, res.sum(-2) - 1
