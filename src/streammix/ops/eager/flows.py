"""Laplacian systems whose right-hand side is given as flows on the edges of the graph.

Elimination adds positive numbers only (Grassmann, Taksar & Heyman 1985), and keeps the flows on their edges: the small
one between two groups of nodes is never added to the large ones inside them, so the solution keeps its digits however
close the graph is to falling apart.
"""

import torch
from torch import Tensor

from . import twofold

#: A right-hand side given at the nodes: beta (..., n), high and low, which sums to zero, and what is less than zero's
#: noise (..., 1).
Nodes = tuple[Tensor, Tensor, Tensor]


def solve(W: Tensor, g: Tensor, tiny: float) -> tuple[Tensor, Tensor]:
    """x with sum_k W_jk (x_j - x_k) = sum_k g_jk, and x = 0 at the last node; and the least pivot: how weakly some
    group of nodes hangs on the rest.

    W (..., n, n) symmetric, >= 0, its diagonal ignored; g (..., n, n) antisymmetric. A node whose pivot s is below
    `tiny` is connected to no later one, and has x = 0 too.

        s = sum_k>p W_pk,   W_jk += W_pj W_pk / s,   g_jk += (g_pk W_pj - g_pj W_pk) / s     p = 0 .. n-2;  j, k > p
        x_p = (sum_k>p g_pk + sum_k>p W_pk x_k) / s                                          p = n-2 .. 0
    """
    x, pivots, _ = solve_at(W, g, tiny)
    return x, torch.stack([torch.ones_like(W[..., 0, 0]), *pivots], -1).amin(-1)


def solve_at(
    W: Tensor, g: Tensor, tiny: float, nodes: Nodes | None = None
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The same for sum_k W_jk (x_j - x_k) = beta_j + sum_k g_jk; the pivots s, and what flows out over each.

    What is given at a node becomes a flow, when the node is eliminated, on its strongest edge; what arrives at the
    other end is added there with twice the digits, so that it is the sum over all the nodes behind it, not its noise.
    """
    eliminated, pivots, flowing = [], [], []
    for _ in range(W.shape[-1] - 1):
        row, flow = W[..., 0, 1:], g[..., 0, 1:]
        pivot = row.sum(-1, keepdim=True)
        pivots.append(pivot.squeeze(-1))
        if nodes is not None:
            high, low, least = nodes
            none = (pivot < tiny) | (high[..., :1].abs() < least)
            there = torch.nn.functional.one_hot(row.argmax(-1), row.shape[-1]).bool() & ~none
            sent = torch.where(there, high[..., :1], 0), torch.where(there, low[..., :1], 0)
            flow = flow + sent[0]
            nodes = (*twofold.add((high[..., 1:], low[..., 1:]), sent), least)
        out = flow.sum(-1, keepdim=True)
        flowing.append(out.squeeze(-1))
        pivot = pivot.masked_fill(pivot < tiny, torch.inf)
        share = row / pivot
        eliminated.append((out / pivot, share))
        W = W[..., 1:, 1:] + row.unsqueeze(-1) * share.unsqueeze(-2)
        across = share.unsqueeze(-1) * flow.unsqueeze(-2)
        g = g[..., 1:, 1:] + (across - across.mT)
    x = W.new_zeros(*W.shape[:-2], 1)
    for own, share in reversed(eliminated):
        x = torch.cat([own + (share * x).sum(-1, keepdim=True), x], -1)
    return x, pivots, flowing
