"""The implicit derivative of the projection onto a transportation polytope, in plain PyTorch.

A change dR, dr, dc of logits and marginals changes T_ij by T_ij (dR_ij + da_i + db_j), with the da and db for which the
sums become r + dr and c + dc. Backwards, for G = dL/dT:

    D = dL/dR = T o E,   E_ij = G_ij - x_i - w_j,   dL/dr = x,   dL/dc = w

with the x and w for which rows and columns of T o E sum to zero. Those are defined up to a constant between them; as
the columns are scaled to the sum of the rows, it is the one with sum_j c_j w_j = 0.

T is all that is needed: r and c are its sums. The longer side is eliminated, as in the forward pass.
"""

import torch
from torch import Tensor

from . import flows, levels
from .birkhoff import TINY
from .transport import Marginals, constants, graph, potentials

Three = tuple[Tensor, Tensor, Tensor]


def transport_backward(grad: Tensor, T: Tensor) -> Three:
    """G, T (..., m, n) -> D (..., m, n), x (..., m), w (..., n)."""
    E, x, w = centred(grad, T)
    return T * E, x, w


def centred(G: Tensor, T: Tensor) -> Three:
    """E, x and w."""
    c = T.sum(-2)
    if T.shape[-2] >= T.shape[-1]:
        E, x, w = _centred(G, T)
    else:
        E, w, x = _centred(G.mT, T.mT)
        E = E.mT
    shift = (c * w).sum(-1, keepdim=True) / c.sum(-1, keepdim=True)
    return E, x + shift, w - shift


def _centred(G: Tensor, T: Tensor) -> Three:
    """For m >= n, and any one of the x and w. Twice: what is left of G after the first is as small as E, so the second
    loses no digits where G was nearly x 1' + 1 w'."""
    r = T.sum(-1)
    P = T / r.unsqueeze(-1)
    largest = T.argmax(-1, keepdim=True)
    first = potentials(G, P, r).unsqueeze(-2)
    high, low = levels.two_sum(G, -first)
    left = (high - high.gather(-1, largest)) + (low - low.gather(-1, largest))
    second = potentials(left, P, r)
    # sum_k P_ik ((G_ij - G_ik) - (w_j - w_k)): differences first, so that nothing cancels next to a vertex
    E = [
        ((g.unsqueeze(-1) - left) - (v.unsqueeze(-1) - second).unsqueeze(-2))
        for g, v in zip(left.unbind(-1), second.unbind(-1))
    ]
    w = first.squeeze(-2) + second
    return torch.stack([(P * e).sum(-1) for e in E], -1), (P * (G - w.unsqueeze(-2))).sum(-1), w


def moved(rows: Tensor, columns: Tensor, T: Tensor) -> Tensor:
    """da_i + db_j (..., m, n): how the logarithm of T moves with marginals that change by `rows` and `columns`; the
    latter are scaled along with the sum of the rows."""
    c = T.sum(-2)
    excess = rows.sum(-1, keepdim=True) - columns.sum(-1, keepdim=True)
    columns = columns + c * (excess / c.sum(-1, keepdim=True))
    return _moved(rows, columns, T) if T.shape[-2] >= T.shape[-1] else _moved(columns, rows, T.mT).mT


def _moved(long: Tensor, short: Tensor, T: Tensor) -> Tensor:
    """For m >= n:  L db = short - P' long,  da_i + db_j = long_i / r_i + sum_k P_ik (db_j - db_k)."""
    r = T.sum(-1)
    P = T / r.unsqueeze(-1)
    W, _ = graph(P, r)
    _, g = graph(P, r, long)
    nothing = torch.zeros_like
    beta = constants(P, Marginals((long, nothing(long)), (short, nothing(short)), nothing(short[..., :1])))
    db, *_ = flows.solve_at(W, g, TINY[T.dtype], (*beta, nothing(short[..., :1])))
    across = [(P * (d.unsqueeze(-1) - db).unsqueeze(-2)).sum(-1) for d in db.unbind(-1)]
    return (long / r).unsqueeze(-1) + torch.stack(across, -1)


def tangent(logits: Tensor, rows: Tensor, columns: Tensor, T: Tensor) -> Tensor:
    """T's change with those of logits and marginals."""
    return T * (centred(logits, T)[0] + moved(rows, columns, T))


def double_backward(D: Tensor, x: Tensor, w: Tensor, grad: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    """Of G and T, from those of D, x and w = transport_backward(G, T).

    <X, D> + <xi, x> + <omega, w> is T o Y in G, with Y = E(X) plus what the marginals xi and omega move; and as T o E
    has zero row and column sums, it is E(G) o Y in T, but for what fixes the constant in w, which moves with c.
    """
    E, _, potentials_w = centred(grad, T)
    Y = centred(D, T)[0] + moved(x, w, T)
    excess = (x.sum(-1, keepdim=True) - w.sum(-1, keepdim=True)) / T.sum(-1).sum(-1, keepdim=True)
    return T * Y, E * Y + (excess * potentials_w).unsqueeze(-2)
