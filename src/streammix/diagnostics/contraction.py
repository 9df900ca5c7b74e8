"""What a mixing matrix does to the streams' mean and to their differences, each by itself."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import widened_square


def dobrushin(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Dobrushin's coefficient τ(H) = max_{i,k} ½ Σ_j |H[i, j] - H[k, j]|.

    For row-stochastic H, from 0 (all rows alike: streams become copies) to 1, and the factor by which the largest
    difference between two streams shrinks at least; τ(AB) <= τ(A) τ(B). At most 1 - n min H.
    """
    res = widened_square("res", res)
    return (res[..., :, None, :] - res[..., None, :, :]).abs().sum(-1).flatten(-2).amax(-1) / 2


class BlockForm(NamedTuple):
    """H in the basis E = [1/√n | U], U an orthonormal basis of the differences: EᵀHE = [[a, bᵀ], [c, D]]."""

    a: Float[Tensor, "*batch"]
    """How the mean of the streams goes on: 1 where rows, or columns, sum to one."""
    b: Float[Tensor, "*batch m"]
    """How differences flow into the mean, m = n - 1: zero where columns sum to one."""
    c: Float[Tensor, "*batch m"]
    """How the mean flows into differences: zero where rows sum to one."""
    D: Float[Tensor, "*batch m m"]
    """How differences go on; its singular values do not depend on the choice of U."""


def block_form(res: Float[Tensor, "*batch n n"]) -> BlockForm:
    """EᵀHE = [[a, bᵀ], [c, D]] (arXiv 2609.02672): doubly stochastic H have a = 1 and b = c = 0."""
    res = widened_square("res", res)
    basis = difference_basis(res.shape[-1]).to(res)
    blocks = basis.mT @ res @ basis
    return BlockForm(blocks[..., 0, 0], blocks[..., 0, 1:], blocks[..., 1:, 0], blocks[..., 1:, 1:])


def difference_basis(n: int) -> Float[Tensor, "n n"]:
    """E = [1/√n | U] by Helmert: column k of U compares stream k + 1 with the mean of those before it; in float64."""
    basis = torch.zeros(n, n, dtype=torch.float64)
    basis[:, 0] = 1 / math.sqrt(n)
    for k in range(1, n):
        basis[:k, k] = 1 / math.sqrt(k * (k + 1))
        basis[k, k] = -k / math.sqrt(k * (k + 1))
    return basis


def log_range(logits: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """log(1/ν) = max H̃ - min H̃, ν being the relative range min M / max M of the positive matrix M = exp(H̃).

    Source: arXiv 2601.05732, Eq. 3. Sinkhorn needs O(n² log(n/ν) / ε²) iterations; the paper counts matrices with
    log(1/ν) > 30. `trace(model, logits=True)` records the logits.
    """
    logits = widened_square("logits", logits)
    return logits.amax((-2, -1)) - logits.amin((-2, -1))


def relative_range(positive: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """ν = min M / max M over the entries above zero of a matrix M before Sinkhorn (arXiv 2601.05732, Eq. 3).

    NaN for a matrix without any. Of logits, `log_range` gives log(1/ν) where exp would overflow.
    """
    positive = widened_square("positive", positive)
    least = torch.where(positive > 0, positive, torch.inf).amin((-2, -1))
    most = positive.amax((-2, -1))
    return torch.where(most > 0, least / most, torch.nan)
