"""The exact Birkhoff projection and its implicit derivative in plain PyTorch.

For logits R the projection is T = argmin over doubly stochastic T of sum_ij T_ij (log T_ij - R_ij). Eliminating the row
potentials leaves a convex dual in the column potentials b (arXiv 2606.07574, Sec. 3):

    f(b) = sum_i logsumexp_j(R_ij + b_j) - sum_j b_j,   T = row-softmax(R + b),   c = column sums of T
    gradient c - 1,   Hessian diag(c) - T'T = Laplacian of the graph with weights W_jk = sum_i T_ij T_ik

Newton's method here keeps T itself as its state (rows always sum to one), so nothing is ever lost to a large logit.
"""

import torch
from torch import Tensor

from . import laplacian

NEARLY_BALANCED = 0.5  # sum_j |c_j - 1| below which doubling the logits is safe
MAX_ROW_RANGE = 8.0  # max - min within a row up to which Newton starts directly
MAX_STEP = 2.0  # largest change of a potential in one step


def default_tolerance(n: int, dtype: torch.dtype) -> float:
    """sum_j |c_j - 1| at which the iteration stops: twice the rounding error of n column sums."""
    return 2 * n * torch.finfo(dtype).eps


def birkhoff(logits: Tensor, tol: float | None = None) -> Tensor:
    """(..., n, n) -> (..., n, n), the projection; a matrix with a non-finite logit becomes NaN."""
    n = logits.shape[-1]
    R = logits.to(torch.promote_types(logits.dtype, torch.float32)).reshape(-1, n, n)
    finite = R.isfinite().all(-1).all(-1)[:, None, None]
    T = _newton(torch.where(finite, R, 0), max(tol or 0.0, default_tolerance(n, R.dtype)))
    T = _rows(T / T.sum(-2, keepdim=True))  # one Sinkhorn pass: to rounding level
    return torch.where(finite, T, torch.nan).reshape(logits.shape).to(logits.dtype)


def _newton(R: Tensor, tol: float) -> Tensor:
    T, doublings = _start(R)
    result, index = torch.empty_like(T), torch.arange(len(T), device=T.device)
    limit = 64 + 4 * int(doublings.max()) if len(T) else 0
    for _ in range(limit):
        c = T.sum(-2)
        error = (c - 1).abs().sum(-1)
        done = (error <= tol) & (doublings == 0)
        result[index[done]] = T[done]
        T, c, error, doublings, index = (t[~done] for t in (T, c, error, doublings, index))
        if not len(T):
            break
        T = _rows(T * _step(T, c).exp().unsqueeze(-2))
        # Homotopy: T is nearly the solution at half the inverse temperature; T squared, at the full one.
        double = (error < NEARLY_BALANCED) & (doublings > 0)
        T = torch.where(double[:, None, None], _rows(T * T), T)
        doublings = doublings - double.int()
    result[index] = T
    return result


def _start(R: Tensor) -> tuple[Tensor, Tensor]:
    """Row-softmax of R / 2^k and k, the smallest k >= 0 that brings every row range to MAX_ROW_RANGE or below."""
    half_range = (R.amax(-1) / 2 - R.amin(-1) / 2).amax(-1)  # halved first: the range itself may overflow
    doublings = torch.frexp(half_range / (MAX_ROW_RANGE / 2)).exponent.clamp(min=0)
    return torch.softmax(torch.ldexp(R, -doublings[:, None, None]), -1), doublings


def _step(T: Tensor, c: Tensor) -> Tensor:
    """The Newton step -H^-1 (c - 1), centred, and shortened so that no potential moves by more than MAX_STEP."""
    d = laplacian.solve(T.mT @ T, 1 - c, torch.finfo(T.dtype).eps)
    d = d - d.mean(-1, keepdim=True)
    return d * (MAX_STEP / d.abs().amax(-1, keepdim=True).clamp(min=MAX_STEP))


def _rows(T: Tensor) -> Tensor:
    return T / T.sum(-1, keepdim=True)


def birkhoff_backward(grad: Tensor, T: Tensor) -> Tensor:
    """dL/dR = T o E for G = dL/dT: the implicit derivative at the solution; T is all it needs. Self-adjoint in G."""
    wide = torch.promote_types(T.dtype, torch.float32)
    return (T.to(wide) * centred(grad.to(wide), T.to(wide))).to(T.dtype)


def centred(G: Tensor, T: Tensor) -> Tensor:
    """E_ij = G_ij - v_i - w_j, the v and w for which every row and column of T o E sums to zero. (..., n, n) each.

    w solves L w = column sums of T o (G - row means of G), v_i is the row mean of G - w (means weighted by T).
    """
    w = laplacian.solve(T.mT @ T, (T * _minus_row_mean(G, T)).sum(-2), torch.finfo(T.dtype).eps / 128)
    return _minus_row_mean(G - w.unsqueeze(-2), T)


def _minus_row_mean(G: Tensor, T: Tensor) -> Tensor:
    """sum_k T_ik (G_ij - G_ik): differences first, so that nothing cancels when T is next to a vertex."""
    columns = zip(T.split(1, -1), G.split(1, -1))
    return torch.stack([weight * (G - other) for weight, other in columns]).sum(0)
