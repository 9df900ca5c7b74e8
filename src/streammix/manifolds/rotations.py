"""Skew-symmetric matrices, the Cayley map from them to rotations, and a basis of what is orthogonal to 1."""

import torch
from torch import Tensor


def skew(entries: Tensor, n: int) -> Tensor:
    """(..., n (n - 1) / 2) -> (..., n, n): the strict upper triangle, row by row, minus its transpose."""
    row, column = torch.triu_indices(n, n, 1, device=entries.device)
    A = entries.new_zeros(*entries.shape[:-1], n * n).index_copy(-1, row * n + column, entries).unflatten(-1, (n, n))
    return A - A.mT


def cayley(A: Tensor) -> Tensor:
    """Q = (I + A)^-1 (I - A) for skew-symmetric A (..., n, n): every rotation that lacks the eigenvalue -1.

    Orthogonal to rounding for A of any size: entries beyond 1e-3 / eps, where Q no longer resolves them, are scaled
    back to that, and Newton-Schulz steps remove what rounding leaves: a few eps in the closed form of n <= 3, eps |A|
    in a solve.
    """
    n = A.shape[-1]
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    if n < 2:
        return eye.expand_as(A) + A
    limit = 1e-3 / torch.finfo(A.dtype).eps
    A = A * (limit / A.abs().amax((-1, -2), keepdim=True).clamp(min=limit))
    if n <= 3:  # A^3 = -a^2 A with a^2 = |A|_F^2 / 2
        Q = eye - 2 * (A - A @ A) / (1 + A.square().sum((-1, -2), keepdim=True) / 2)
    else:
        Q = torch.linalg.solve_ex(eye + A, eye - A).result
    for _ in range(1 if n <= 3 else 2):
        Q = 1.5 * Q - 0.5 * Q @ (Q.mT @ Q)
    return Q


def helmert(n: int, like: Tensor) -> Tensor:
    """U (n, n - 1) with U'U = I and U'1 = 0. Column i: i ones, then -i, then zeros, over sqrt(i (i + 1))."""
    row = torch.arange(n, dtype=like.dtype, device=like.device).unsqueeze(-1)
    i = torch.arange(1, n, dtype=like.dtype, device=like.device)
    return torch.where(row < i, 1, torch.where(row == i, -i, 0)) / (i * (i + 1)).sqrt()
