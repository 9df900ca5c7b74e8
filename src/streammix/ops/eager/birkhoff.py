"""The exact Birkhoff projection and its implicit derivative in plain PyTorch.

For logits R the projection is T = argmin over doubly stochastic T of sum_ij T_ij (log T_ij - R_ij). Eliminating the row
potentials leaves a convex dual in the column potentials b (arXiv 2606.07574, Sec. 3):

    f(b) = sum_i logsumexp_j(R_ij + b_j) - sum_j b_j,   T = row-softmax(R + b),   c = column sums of T
    gradient c - 1,   Hessian diag(c) - T'T = Laplacian of the graph with weights W_jk = sum_i T_ij T_ik

As the rows of T sum to one, 1 - c_j = sum_k g_jk with the flows g_jk = T_jk - T_kj, whose noise is as small as they are
once the rows are in an order that puts large entries on the diagonal. Newton's method keeps T itself as its state, and
never forms c - 1.

Nothing here depends on values: every matrix of the batch takes the same steps, at most MAX_STEPS of them (twice that
where sums of huge logits tie), and the host looks every CHECK steps whether any is still going.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import flows, levels, matching

REACH = 8.0  # logits further apart than this (in a row) go through the homotopy
PASSES = 3  # Sinkhorn passes before the first Newton step
MAX_STEP = 2.0  # largest change of a potential in one step
WEAK = 1 / 32  # columns coupled by less: the order of the rows matters; four times it for n > 4, whose errors add up
CHECK = 4  # steps between two looks of the host
MAX_STEPS = {torch.float32: 640, torch.float64: 4800}  # several for each of the at most 128 or 1024 levels
#: Two columns coupled by less are not: entries that are zero in the format would have to balance them.
NONE = {torch.float32: 1e-24, torch.float64: 1e-60}
TINY = {torch.float32: 1e-35, torch.float64: 1e-150}


def last_step(tol: float | None, n: int, dtype: torch.dtype) -> float:
    """max |d|^2 of the last step. Steps converge quadratically, so it leaves errors of about eps, and sum |c - 1| below
    tol."""
    return max(4 * torch.finfo(dtype).eps, 2 * min(tol or 0.0, 0.5) / n)


def birkhoff(logits: Tensor, tol: float | None = None) -> Tensor:
    """(..., n, n) -> (..., n, n), the projection. -inf is a mask; a matrix without a solution becomes NaN."""
    n = logits.shape[-1]
    R = logits.to(torch.promote_types(logits.dtype, torch.float32)).reshape(-1, n, n)
    masked = R.isneginf()
    sound = (masked | R.isfinite()).flatten(1).all(-1)
    if R.numel() and bool(masked.any()):
        sound = sound & (~masked.flatten(1).any(-1) | matching.has_total_support(~masked))
    R = torch.where(sound[:, None, None], R, 0)
    small = last_step(tol, n, R.dtype)
    T = _project(R, small)
    T = T + T * (1 - T.sum(-2, keepdim=True))  # one Sinkhorn pass: to rounding level
    T = T / T.sum(-1, keepdim=True)
    return torch.where(sound[:, None, None], T, torch.nan).reshape(logits.shape).to(logits.dtype)


@dataclass
class _State:
    """R, T with rows in `order` (B, n); b: the column potentials of T; k (B,): levels still to go; `none` (B, 1, 1):
    the weight below which edges are taken out."""

    R: Tensor
    T: Tensor
    b: levels.Threefold
    k: Tensor
    order: Tensor
    none: Tensor

    def permute(self, order: Tensor) -> None:
        index = order.unsqueeze(-1).expand_as(self.R)
        self.R, self.T = self.R.gather(1, index), self.T.gather(1, index)
        self.order = self.order.gather(1, order)


def _project(R: Tensor, small: float) -> Tensor:
    B, n, _ = R.shape
    k = _levels(R)
    index = torch.arange(n, device=R.device).expand(B, n)
    none = R.new_full((B, 1, 1), NONE[R.dtype])
    zero = levels.zero(R[:, 0])
    state = _State(R, levels.matrix(R, k, zero), zero, k, index, none)
    everything = torch.ones(B, dtype=torch.bool, device=R.device)
    for _ in range(PASSES):
        _move(state, -state.T.sum(-2).log(), everything)
    _newton(state, small, everything, formed=True)
    # Logits whose sums tie, or nearly, through more digits than the potentials have: once more by squares, which find a
    # doubly stochastic matrix whatever the logits are.
    enough = n * max(8 * torch.finfo(R.dtype).eps, small)
    failed = (~((state.T.sum(-2) - 1).abs().sum(-1) < enough) | (state.k > 0)) & (k > 0)
    if B and bool(failed.any()):
        again = levels.matrix(state.R, k, zero)
        state.T = torch.where(failed[:, None, None], again, state.T)
        state.k = torch.where(failed, k, state.k)
        state.none = none
        _newton(state, small, failed, formed=False)
    return torch.empty_like(R).scatter(1, state.order.unsqueeze(-1).expand_as(R), state.T)


def _levels(R: Tensor) -> Tensor:
    """k, the smallest >= 0 for which no row of R / 2^k ranges over more than REACH (masked logits left out)."""
    low = torch.where(R.isneginf(), torch.inf, R).amin(-1)
    half_range = (R.amax(-1) / 2 - low / 2).amax(-1)  # halved first: the range itself may overflow
    return torch.frexp(half_range / (REACH / 2)).exponent.clamp(min=0)


def _move(state: _State, d: Tensor, where: Tensor) -> None:
    """T_ij *= e^d_j, rows normalised; matrices elsewhere stay as they are, to the bit."""
    T = state.T * d.exp().unsqueeze(-2)
    state.T = torch.where(where[:, None, None], T / T.sum(-1, keepdim=True), state.T)
    state.b = levels.add(state.b, d / levels.UNIT)


def _graph(T: Tensor) -> tuple[Tensor, Tensor]:
    return _weights(T), T - T.mT


def _weights(T: Tensor) -> Tensor:
    """W_jk = sum_i T_ij T_ik, in full precision whatever torch.set_float32_matmul_precision says."""
    W = torch.zeros_like(T)
    for row in T.unbind(-2):
        W = W.addcmul(row.unsqueeze(-1), row.unsqueeze(-2))
    return W


def _newton(state: _State, small: float, active: Tensor, formed: bool) -> None:
    """Steps in the `active` matrices. formed: the next level's T comes from the logits; else it is T squared."""
    dtype, n = state.R.dtype, state.R.shape[-1]
    if not len(active):
        return
    rows = torch.arange(n, device=active.device).expand(len(active), n)
    matched = torch.zeros_like(active)
    for step in range(MAX_STEPS[dtype]):
        W, g = _graph(state.T)
        d, least = flows.solve(W, g, TINY[dtype])
        disordered = state.T.diagonal(dim1=-2, dim2=-1).amin(-1) < 0.5 / n
        wanting = active & ~matched & disordered & (least < (WEAK if n <= 4 else 4 * WEAK))
        if step % CHECK == 0:
            going, unmatched, above = torch.stack(
                [active.any(), wanting.any(), (active & (state.k > 0)).any()]
            ).tolist()
            if not going:
                return
            if unmatched:
                best = matching.best(-state.T.clamp(min=torch.finfo(dtype).tiny).log())
                state.permute(torch.where(wanting.unsqueeze(-1), best, rows))
                matched = matched | (wanting & (state.k == 0))
                wanting = torch.zeros_like(wanting)
                W, g = _graph(state.T)
        faint = (active & (least < 64 * state.none.flatten()))[:, None, None]
        out = faint & (state.none > W)
        state.none = torch.where(faint, 1.125 * state.none, state.none)  # nor may an edge come and go for ever
        d, _ = flows.solve(W.masked_fill(out, 0), g.masked_fill(out, 0), TINY[dtype])
        d = d - (d.amax(-1, keepdim=True) + d.amin(-1, keepdim=True)) / 2
        size = d.abs().amax(-1)
        d = d * (MAX_STEP / size.clamp(min=MAX_STEP)).unsqueeze(-1)
        _move(state, torch.where(active.unsqueeze(-1), d, 0), active)
        # an order still wanted is noise in d, however small
        still = active & ((size**2 > small) | (state.k > 0) | wanting)
        if above:
            _descend(state, active & (state.k > 0) & (size < MAX_STEP), formed)
        active = still


def _descend(state: _State, where: Tensor, formed: bool) -> None:
    """The homotopy's next level, once no step need be shortened at the last one."""
    state.k = state.k - where.int()
    state.none = state.none.masked_fill(where[:, None, None], NONE[state.T.dtype])
    below = levels.double(state.b, _weights(state.T) >= NONE[state.T.dtype])
    if formed:
        T = levels.matrix(state.R, state.k, below)
    else:
        T = state.T**2
        T = T / T.sum(-1, keepdim=True)
    state.T = torch.where(where[:, None, None], T, state.T)
    b0, b1, b2 = (torch.where(where[:, None], new, old) for new, old in zip(below, state.b))
    state.b = b0, b1, b2


def birkhoff_backward(grad: Tensor, T: Tensor) -> Tensor:
    """dL/dR = T o E for G = dL/dT: the implicit derivative at the solution; T is all it needs. Self-adjoint in G."""
    wide = torch.promote_types(T.dtype, torch.float32)
    return (T.to(wide) * centred(grad.to(wide), T.to(wide))).to(T.dtype)


def centred(G: Tensor, T: Tensor) -> Tensor:
    """E_ij = G_ij - v_i - w_j, the v and w for which every row and column of T o E sums to zero. (..., n, n) each.

    w solves L w = sums of the flows F_jk = sum_i T_ij T_ik (G_ij - G_ik), and v_i is the row mean of G - w (weighted by
    T). Twice: what is left of G after the first is as small as E, so the second loses no digits where G was nearly
    v 1' + 1 w'.
    """
    largest = T.argmax(-1, keepdim=True)
    w = _potentials(G, T).unsqueeze(-2)
    high, low = levels.two_sum(G, -w)
    left = (high - high.gather(-1, largest)) + (low - low.gather(-1, largest))
    w = _potentials(left, T)
    # sum_k T_ik ((G_ij - G_ik) - (w_j - w_k)): differences first, so that nothing cancels next to a vertex
    E = [
        ((g.unsqueeze(-1) - left) - (x.unsqueeze(-1) - w).unsqueeze(-2)) for g, x in zip(left.unbind(-1), w.unbind(-1))
    ]
    return torch.stack([(T * e).sum(-1) for e in E], -1)


def _potentials(G: Tensor, T: Tensor) -> Tensor:
    columns = zip(G.unbind(-1), T.unbind(-1))
    F = [((T * (g.unsqueeze(-1) - G)) * t.unsqueeze(-1)).sum(-2) for g, t in columns]
    return flows.solve(_weights(T), torch.stack(F, -2), TINY[T.dtype])[0]
