"""The Cayley map in plain PyTorch."""

import math

import torch
from torch import Tensor


def skew(entries: Tensor, n: int) -> Tensor:
    """(..., n (n - 1) / 2) -> (..., n, n): the strict upper triangle, row by row, minus its transpose."""
    row, column = torch.triu_indices(n, n, 1, device=entries.device)
    A = entries.new_zeros(*entries.shape[:-1], n * n).index_copy(-1, row * n + column, entries).unflatten(-1, (n, n))
    return A - A.mT


def cayley(entries: Tensor, n: int) -> Tensor:
    """Q = (I + A)^-1 (I - A), A = skew(entries), n >= 2: (..., n (n - 1) / 2) -> (..., n, n).

    Orthogonal to rounding for A of any size. Made in float64, where the device has it; Newton-Schulz steps remove what
    rounding leaves: a few eps in the closed form of n <= 3, eps |A| in a solve. A with an entry beyond 2^22 (float32)
    or 1e-3 / eps (float64) is scaled back to that as a whole; the gradient is then that of the scaled one.
    """
    A = skew(entries if entries.is_mps else entries.double(), n)
    eye = torch.eye(n, dtype=A.dtype, device=A.device)
    limit = min(1e-3 / torch.finfo(A.dtype).eps, 2.0**22 if entries.dtype == torch.float32 else math.inf)
    A = A * (limit / A.abs().amax((-1, -2), keepdim=True).clamp(min=limit))
    if n <= 3:  # A^3 = -a^2 A with a^2 = |A|_F^2 / 2
        Q = eye - 2 * (A - A @ A) / (1 + A.square().sum((-1, -2), keepdim=True) / 2)
    else:
        Q = torch.linalg.solve_ex(eye + A, eye - A).result
    for _ in range(1 if n <= 3 else 3):
        Q = 1.5 * Q - 0.5 * Q @ (Q.mT @ Q)
    return Q.to(entries.dtype).contiguous()


def cayley_backward(grad: Tensor, Q: Tensor) -> Tensor:
    """Gradient of the entries from that of Q, both (..., n, n).

    dQ = -1/2 P dA P with P = I + Q, so that D = -1/2 P' grad P' belongs to A, and D_ij - D_ji to entry ij, i < j.
    """
    n = Q.shape[-1]
    P = Q + torch.eye(n, dtype=Q.dtype, device=Q.device)
    D = -0.5 * P.mT @ grad @ P.mT
    return upper(D - D.mT)


def upper(A: Tensor) -> Tensor:
    """(..., n, n) -> (..., n (n - 1) / 2): the entries above the diagonal, row by row."""
    n = A.shape[-1]
    row, column = torch.triu_indices(n, n, 1, device=A.device)
    return A.flatten(-2).index_select(-1, row * n + column)
