"""Solving with a graph Laplacian by additions of positive numbers only (Grassmann-Taksar-Heyman elimination)."""

import torch
from torch import Tensor


def solve(W: Tensor, rhs: Tensor, ground: float) -> Tensor:
    """d with (L + ground * I) d = rhs, L = diag(W 1) - W the Laplacian of the graph with weights W >= 0.

    W (..., n, n) symmetric, its diagonal ignored; rhs (..., n), of sum zero up to rounding. `ground` > 0 ties nodes
    that are disconnected to working precision to zero; the last node is the reference, its d zero.
    Eliminating node p with s = ground_p + sum_k>p W_pk changes the rest by

        W_jk += W_pj W_pk / s,   ground_j += ground_p W_pj / s,   rhs_j += rhs_p W_pj / s,

    so nothing is subtracted and every pivot keeps its full relative accuracy, however small the weights.
    """
    tie = torch.full_like(rhs, ground)
    eliminated = []
    for _ in range(rhs.shape[-1] - 1):
        row = W[..., 0, 1:]
        pivot = tie[..., :1] + row.sum(-1, keepdim=True)
        share = row / pivot
        eliminated.append((rhs[..., :1] / pivot, share))
        W = W[..., 1:, 1:] + row.unsqueeze(-1) * share.unsqueeze(-2)
        tie = tie[..., 1:] + tie[..., :1] * share
        rhs = rhs[..., 1:] + rhs[..., :1] * share
    d = torch.zeros_like(rhs)
    for own, share in reversed(eliminated):
        d = torch.cat([own + (share * d).sum(-1, keepdim=True), d], -1)
    return d
