"""The entropic projection onto transportation polytopes in plain PyTorch; docs/transport.md derives it.

    T = argmin over T >= 0 with T 1 = rows, T' 1 = columns of  sum_ij T_ij (log T_ij - R_ij)

The longer side is eliminated: T = r_i P_ij with P = row-softmax(R + b), which leaves a convex dual in the n potentials
b of the shorter side, whose marginals are c:

    gradient -(c - P'r),   Hessian = Laplacian of the graph with weights W_jk = sum_i r_i P_ij P_ik

The imbalance c - P'r must not be formed by cancelling. Let p(i) be the column of row i's largest entry. As P's rows sum
to one, that entry is one less the others, so that

    c_j - sum_i r_i P_ij = beta_j + sum_k g_jk
    g_jk = sum_{i: p(i) = j} r_i P_ik - sum_{i: p(i) = k} r_i P_ij,    beta_j = c_j - sum_{i: p(i) = j} r_i

The noise of a flow g_jk is some eps of W_jk, since P_ip(i) >= 1 / n. The constants beta depend on the marginals alone:
they are summed with twice the digits, and sent along the strongest edges while the graph is eliminated (flows.py). The
beta of a set of columns is at the solution a sum of flows over the set's border, so at most n times the weight there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import flows, levels, twofold
from .birkhoff import CHECK, MAX_STEP, MAX_STEPS, NONE, PASSES, REACH, TINY, last_step
from .twofold import Twofold

ALIKE = 1e-5  # sums of rows and columns differ by no more of themselves
MET = {torch.float32: 1e-5, torch.float64: 1e-11}  # column sums, of themselves: else there is no solution


@dataclass
class Marginals:
    """Of the side that is eliminated, `long` (B, m), and of the other, `short` (B, n); `least` (B, 1): sums of both
    that differ by less are alike."""

    long: Twofold
    short: Twofold
    least: Tensor


def transport(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(..., m, n), (..., m), (..., n) -> (..., m, n) of float32 or float64. -inf is a mask. Columns are scaled to the
    sum of the rows. A matrix without a solution becomes NaN."""
    m, n = logits.shape[-2:]
    R, r, c = logits.reshape(-1, m, n), rows.reshape(-1, m), columns.reshape(-1, n)
    total_r, total_c = (twofold.total((x, torch.zeros_like(x)), -1) for x in (r, c))
    difference = (total_r[0] - total_c[0]) + (total_r[1] - total_c[1])
    sound = (R.isneginf() | R.isfinite()).flatten(1).all(-1) & ~R.isneginf().all(-1).any(-1)
    sound = sound & (r > 0).all(-1) & (c > 0).all(-1) & (difference.abs() <= ALIKE * total_r[0])
    sound = sound & total_r[0].isfinite() & total_c[0].isfinite()
    ok = sound.unsqueeze(-1)
    R = torch.where(ok.unsqueeze(-1), R, 0)
    r, c = torch.where(ok, r, 1 / m), torch.where(ok, c, 1 / n)
    size = torch.where(sound, total_r[0], 1)
    difference = torch.where(sound, difference, 0)
    # columns scaled to the sum of the rows: c + c (sum r - sum c) / sum c
    of_sum = levels.two_sum(c, c * (difference / torch.where(sound, total_c[0], 1)).unsqueeze(-1))
    eps = torch.finfo(R.dtype).eps
    least = (eps * (4 * difference.abs() + eps / 8 * size)).unsqueeze(-1)

    exponent = -torch.frexp(size).exponent.unsqueeze(-1)  # the sums become one, nearly, without a rounding
    unit = lambda x: torch.ldexp(x, exponent)  # noqa: E731
    of_rows, of_columns = (unit(r), torch.zeros_like(r)), (unit(of_sum[0]), unit(of_sum[1]))
    if m >= n:
        P, met = _project(R, Marginals(of_rows, of_columns, unit(least)))
        T = r.unsqueeze(-1) * P
    else:
        P, met = _project(R.mT, Marginals(of_columns, of_rows, unit(least)))
        T = (of_sum[0].unsqueeze(-1) * P).mT
    T = torch.where((sound & met)[:, None, None], T, torch.nan)
    return T.reshape(logits.shape)


def _project(R: Tensor, marginals: Marginals) -> tuple[Tensor, Tensor]:
    """P (B, m, n) with unit rows, and where it met the marginals."""
    dtype, (B, _, n) = R.dtype, R.shape
    r, c = marginals.long[0], marginals.short[0]
    k = _levels(R)
    b = levels.add(levels.zero(c), c.log() / levels.UNIT)
    P = levels.matrix(R, k, b)
    for _ in range(PASSES):
        P, b = _pass(P, b, r, c)
    none = R.new_full((B, 1, 1), NONE[dtype])
    active = torch.ones(B, dtype=torch.bool, device=R.device)
    small = last_step(None, n, dtype)
    for step in range(MAX_STEPS[dtype]):
        if step % CHECK == 0 and not (B and bool(active.any())):
            break
        W, g = graph(P, r)
        beta = constants(P, marginals)
        nodes = (*beta, marginals.least)
        d, pivots, flowing = flows.solve_at(W, g, TINY[dtype], nodes)
        faint = (active & _faint(pivots, flowing, 64 * none.flatten(), TINY[dtype]))[:, None, None]
        out = faint & (none > W)
        none = torch.where(faint, 1.125 * none, none)  # nor may an edge come and go for ever
        d, *_ = flows.solve_at(W.masked_fill(out, 0), g.masked_fill(out, 0), TINY[dtype], nodes)
        d = d - (d.amax(-1, keepdim=True) + d.amin(-1, keepdim=True)) / 2
        size = d.abs().amax(-1)
        d = torch.where(active.unsqueeze(-1), d * (MAX_STEP / size.clamp(min=MAX_STEP)).unsqueeze(-1), 0)
        P = torch.where(active[:, None, None], scaled(P, d), P)
        b = levels.add(b, d / levels.UNIT)
        still = active & ((size**2 > small) | (k > 0)) & size.isfinite()
        # the homotopy's next level, once no step need be shortened at the last one
        lower = active & (k > 0) & (size < MAX_STEP)
        if step % CHECK == 0:
            above = bool((active & (k > 0)).any())
        if above:
            k = k - lower.int()
            none = none.masked_fill(lower[:, None, None], NONE[dtype])
            P_below, b_below = _below(R, P, b, k, r, c)
            P = torch.where(lower[:, None, None], P_below, P)
            b0, b1, b2 = (torch.where(lower[:, None], new, old) for new, old in zip(b_below, b))
            b = b0, b1, b2
        active = still
    # one Sinkhorn pass: to rounding level
    off = (c - column_sums(P, r)) / c
    met = (off.abs() < MET[dtype]).all(-1) & (k == 0)
    P = P + P * off.unsqueeze(-2)
    return P / P.sum(-1, keepdim=True), met


def _levels(R: Tensor) -> Tensor:
    """k, the smallest >= 0 for which no row of R / 2^k ranges over more than REACH (masked logits left out)."""
    low = torch.where(R.isneginf(), torch.inf, R).amin(-1)
    half_range = (R.amax(-1) / 2 - low / 2).amax(-1)
    return torch.frexp(half_range / (REACH / 2)).exponent.clamp(min=0)


def _below(
    R: Tensor, P: Tensor, b: levels.Threefold, k: Tensor, r: Tensor, c: Tensor
) -> tuple[Tensor, levels.Threefold]:
    """P and b at level k from those at k + 1: a step of Euler's method along the path of solutions.

    At the inverse temperature s, log P_ij = s R_ij + b_j - a_i with L db/ds = -flows of R. A step from s to 2 s gives
    b + s db/ds, and as L (s db/ds) = L b - flows of log P, that is 2 b - w with L w = flows of log P. Doubling b alone
    would square entries that the marginals hold where they are.
    """
    doubled = levels.double(b, graph(P, r)[0] >= NONE[P.dtype])
    logs = P.clamp(min=torch.finfo(P.dtype).tiny).log()
    b = levels.add(doubled, -potentials(logs, P, r) / levels.UNIT)
    return _pass(levels.matrix(R, k, b), b, r, c)


def _faint(pivots: list[Tensor], flowing: list[Tensor], none: Tensor, tiny: float) -> Tensor:
    """(B,): some columns hang on the rest by next to nothing, and none of those want more than that from it."""
    faint, wanting = torch.zeros_like(none, dtype=torch.bool), torch.zeros_like(none, dtype=torch.bool)
    for pivot, flow in zip(pivots, flowing):
        weak, much = pivot < none, flow.abs() >= none
        faint = faint | (weak & ~much)
        wanting = wanting | (weak & much & (pivot >= tiny))
    return faint & ~wanting


def _pass(P: Tensor, b: levels.Threefold, r: Tensor, c: Tensor) -> tuple[Tensor, levels.Threefold]:
    """A Sinkhorn pass. It brings a column back at once that holds next to nothing of its marginal."""
    d = (c / column_sums(P, r).clamp(min=torch.finfo(P.dtype).tiny)).log()
    return scaled(P, d), levels.add(b, d / levels.UNIT)


def scaled(P: Tensor, d: Tensor) -> Tensor:
    """P_ij e^d_j, rows normalised."""
    P = P * (d - d.amax(-1, keepdim=True)).exp().unsqueeze(-2)
    return P / P.sum(-1, keepdim=True)


def column_sums(P: Tensor, r: Tensor) -> Tensor:
    return (P * r.unsqueeze(-1)).sum(-2)


def owners(P: Tensor) -> Tensor:
    """(..., m, n) -> the same, bool: each row's largest entry."""
    return torch.nn.functional.one_hot(P.argmax(-1), P.shape[-1]).bool()


def graph(P: Tensor, r: Tensor, flowing: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """W and the flows g of `flowing` (of r unless given), in full precision whatever
    torch.set_float32_matmul_precision says."""
    W = P.new_zeros(*P.shape[:-2], P.shape[-1], P.shape[-1])
    g = torch.zeros_like(W)
    mass = (r if flowing is None else flowing).unsqueeze(-1) * P
    for p, own, u, v in zip(
        P.unbind(-2), owners(P).to(P.dtype).unbind(-2), (r.unsqueeze(-1) * P).unbind(-2), mass.unbind(-2)
    ):
        W = W.addcmul(p.unsqueeze(-1), u.unsqueeze(-2))
        g = g.addcmul(own.unsqueeze(-1), v.unsqueeze(-2))
    return W, g - g.mT


def potentials(G: Tensor, P: Tensor, r: Tensor) -> Tensor:
    """w with L w = sums of the flows F_jk = sum_i r_i P_ij P_ik (G_ij - G_ik)."""
    U = r.unsqueeze(-1) * P
    F = [((U * (g.unsqueeze(-1) - G)) * p.unsqueeze(-1)).sum(-2) for g, p in zip(G.unbind(-1), P.unbind(-1))]
    return flows.solve(graph(P, r)[0], torch.stack(F, -2), TINY[P.dtype])[0]


def constants(P: Tensor, marginals: Marginals) -> Twofold:
    """beta."""
    own = owners(P)
    high, low = (torch.where(own, -x.unsqueeze(-1), 0) for x in marginals.long)
    return twofold.add(marginals.short, twofold.total((high, low), -2))
