"""Newton's method on column sums: how the projection is computed elsewhere, and was here until November 2026."""

import torch
from torch import Tensor

REACH, MAX_STEP, BALANCED = 8.0, 2.0, 0.5


def newton_on_sums(R: Tensor) -> Tensor:
    """(B, n, n) -> (B, n, n). As arXiv 2606.07574, Sec. 3, with the homotopy by squaring that makes it converge always:

        T = row-softmax(R + b),  c = column sums of T,  (diag(c) - T'T + lambda) d = 1 - c

    What the sums say of a small flow between two groups of columns is lost in their rounding, which is that of one.
    """
    n, eps = R.shape[-1], torch.finfo(R.dtype).eps
    k = torch.frexp((R.amax(-1) - R.amin(-1)).amax(-1) / REACH).exponent.clamp(min=0)
    T = torch.softmax(torch.ldexp(R, -k[:, None, None]), -1)
    for _ in range(64 + 4 * int(k.max())):
        missing = 1 - T.sum(-2)
        error = missing.abs().sum(-1)
        going = ((error > 2 * n * eps) | (k > 0))[:, None, None]
        if not bool(going.any()):
            break
        L = torch.diag_embed(1 - missing) - T.mT @ T + n * eps / 2 * torch.eye(n, dtype=R.dtype)
        d = torch.linalg.solve(L, missing)
        d = d - d.mean(-1, keepdim=True)
        d = d * (MAX_STEP / d.abs().amax(-1, keepdim=True).clamp(min=MAX_STEP))
        T = torch.where(going, _rows(T * d.exp().unsqueeze(-2)), T)
        double = (error < BALANCED) & (k > 0)
        T = torch.where(double[:, None, None], _rows(T * T), T)
        k = k - double.int()
    return _rows(T / T.sum(-2, keepdim=True))


def _rows(T: Tensor) -> Tensor:
    return T / T.sum(-1, keepdim=True)
