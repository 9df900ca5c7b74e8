"""The operators, one typed function each, on the backend in force.

Shapes are those of `streammix.functional` and `streammix.layers`; nothing is checked here. Schemas, autograd and
vmap are in operators/, plain formulas in eager/, and one folder holds each other backend.
"""

from typing import Any

from torch import Tensor

from . import operators
from .backend import Backend, backend, backends, mixes, operators_for
from .operators.site import ACTIVATION_CODES
from .registry import Operators
from .sinkhorn_rules import SinkhornRecipe

__all__ = [
    "ACTIVATION_CODES",
    "Backend",
    "Operators",
    "backend",
    "backends",
    "birkhoff",
    "cayley",
    "chart",
    "coefficients",
    "implicit_sinkhorn",
    "mixes",
    "operators",
    "operators_for",
    "read",
    "rows_site_read",
    "sinkhorn",
    "sparse_read",
    "sparse_write",
    "temporal_basis",
    "transport",
    "write",
]


def birkhoff(logits: Tensor, tol: float | None = None) -> Tensor:
    """(..., n, n) -> (..., n, n): the exact projection; operators/birkhoff.py."""
    return operators_for(logits, logits.shape[-1]).birkhoff(logits, tol)


def sinkhorn(logits: Tensor, rounds: int, rule: SinkhornRecipe) -> Tensor:
    """(..., n, n) -> (..., n, n): truncated Sinkhorn by a recipe's rule; operators/sinkhorn.py."""
    return operators_for(logits, logits.shape[-1]).sinkhorn(logits, rounds, *rule.numbers)


def implicit_sinkhorn(logits: Tensor, rounds: int) -> Tensor:
    """(..., n, n) -> (..., n, n): rounds forward, the derivative of their limit; operators/implicit_sinkhorn.py."""
    return operators_for(logits, logits.shape[-1]).implicit_sinkhorn(logits, rounds)


def cayley(entries: Tensor, n: int) -> Tensor:
    """(..., n (n - 1) / 2) -> (..., n, n): rotations; operators/cayley.py."""
    return operators_for(entries, n).cayley(entries, n)


def chart(logits: Tensor, n: int, recursive: bool, scaled: bool) -> Tensor:
    """(..., (n - 1)^2) -> (..., n, n), n >= 2: the transportation polytope's charts; operators/chart.py."""
    return operators_for(logits, n).chart(logits, n, recursive, scaled)


def transport(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(..., m, n), (..., m), (..., n) -> (..., m, n): the exact projection; operators/transport.py."""
    return operators_for(logits, max(logits.shape[-2:])).transport(logits, rows, columns)


def read(x: Tensor, pre: Tensor, dim: int = -2) -> Tensor:
    """x (..., n, C), pre (..., n) -> (..., C); dim: see operators/streams.py."""
    return operators_for(x, x.shape[dim]).read(x, pre, dim)


def write(x: Tensor, y: Tensor, post: Tensor, res: Tensor, dim: int = -2) -> Tensor:
    """x (..., n, C), y (..., C), post (..., n), res (..., n, n) -> (..., n, C); dim: see operators/streams.py."""
    return operators_for(x, x.shape[dim]).write(x, y, post, res, dim)


def sparse_read(x: Tensor, pre: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., n, C), pre (..., n), index (..., k) -> u (..., C) and the streams at index; operators/sparse.py."""
    u, active = operators_for(x, x.shape[-2]).sparse_read(x, pre, index)
    return u, active


def sparse_write(x: Tensor, basis: Tensor, post: Tensor, res: Tensor, index: Tensor) -> Tensor:
    """The streams at index become res of themselves + post of basis (..., b, C), which has the computing dtype;
    operators/sparse.py."""
    return operators_for(x, x.shape[-2]).sparse_write(x, basis, post, res, index)


def temporal_basis(known: Tensor, filters: Tensor, tokens: int) -> Tensor:
    """known (..., time, C), filters (j, length, C) -> (..., tokens, 1 + j, C); operators/temporal.py."""
    return operators_for(known, len(filters)).temporal_basis(known, filters, tokens)


def coefficients(x: Tensor, weight: Tensor, norm_eps: float) -> tuple[Tensor, Tensor]:
    """x (..., n, C), weight (k, n C) -> the normalised state's projection (..., k) and 1 / rms; operators/site.py."""
    projected, inverse_rms = operators_for(x, x.shape[-2]).coefficients(x, weight, norm_eps)
    return projected, inverse_rms


def rows_site_read(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, norm_eps: float, tanh: bool, *activations_and_dim: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """x (..., n, C), weight (n + 2, C), scale (n + 2), bias (n, n + 2) -> what a branch reads, the write weights and
    the mixing logits that each stream makes of itself; the formula is in eager/rows.py."""
    ops = operators_for(x, x.shape[activations_and_dim[-1]])
    u, post, mix, _, _ = ops.rows_site_read(x, weight, scale, bias, norm_eps, tanh, *activations_and_dim)
    return u, post, mix
