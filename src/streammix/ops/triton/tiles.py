"""Matrices as a tile (B, P, P), P the power of two from n on: what the kernels for any n share. Padding is zero.

Vectors of a matrix's rows or columns are (B, P), numbers of a matrix (B,). Loops over rows and columns run at run time,
so that code stays short for every n.
"""

import triton
import triton.language as tl

TINY = tl.constexpr(1e-35)


@triton.jit
def lane(P: tl.constexpr):
    """(1, P): the place in a vector."""
    return tl.arange(0, P)[None, :]


@triton.jit
def row(P: tl.constexpr):
    return tl.arange(0, P)[None, :, None]


@triton.jit
def column(P: tl.constexpr):
    return tl.arange(0, P)[None, None, :]


@triton.jit
def entry(x, p):
    """x_p of (B, P); p a number or (B,)."""
    return tl.sum(tl.where(lane(x.shape[1]) == p, x, 0), 1)


@triton.jit
def entry_of(x, p):
    """The same with a p (B,) for each matrix."""
    return tl.sum(tl.where(lane(x.shape[1]) == p[:, None], x, 0), 1)


@triton.jit
def row_of(M, p):
    """Row p: (B, P, P) -> (B, P)."""
    return tl.sum(tl.where(row(M.shape[1]) == p, M, 0), 1)


@triton.jit
def column_of(M, p):
    return tl.sum(tl.where(column(M.shape[1]) == p, M, 0), 2)


@triton.jit
def picked(x, index):
    """x at index, each (B, P)."""
    P: tl.constexpr = x.shape[1]
    return tl.sum(tl.where(column(P) == index[:, :, None], x[:, None, :], 0), 2)


@triton.jit
def rows_picked(M, index, n: tl.constexpr):
    """Row j of the result is row index_j of M."""
    out = M * 0
    for i in range(n):
        out = tl.where(index[:, :, None] == i, row_of(M, i)[:, None, :], out)
    return out


@triton.jit
def solve(W, g, n: tl.constexpr):
    """x (B, P) with sum_k W_jk (x_j - x_k) = sum_k g_jk and x = 0 at the last node, and the least pivot (B,): as
    eager/flows.py. The diagonal of W is ignored."""
    k = lane(W.shape[1])
    own = row_of(W, 0) * 0.0
    least = tl.sum(own, 1) + 1.0
    for p in range(n - 1):
        weights = tl.where(k > p, row_of(W, p), 0.0)
        flows = tl.where(k > p, row_of(g, p), 0.0)
        s = tl.sum(weights, 1)
        least = tl.minimum(least, s)
        r = tl.where(s < TINY, 0.0, 1.0 / s)
        share = weights * r[:, None]
        W += weights[:, :, None] * share[:, None, :]
        g += share[:, :, None] * flows[:, None, :] - flows[:, :, None] * share[:, None, :]
        W = tl.where(row(W.shape[1]) == p, share[:, None, :], W)  # for the way back
        own = tl.where(k == p, (tl.sum(flows, 1) * r)[:, None], own)
    x = own * 0.0
    for q in range(n - 1):
        p = n - 2 - q
        x_p = entry(own, p) + tl.sum(tl.where(k > p, row_of(W, p), 0.0) * x, 1)
        x = tl.where(k == p, x_p[:, None], x)
    return x, least


@triton.jit
def weights(T, n: tl.constexpr):
    """W_jk = sum_i T_ij T_ik."""
    W = T * 0.0
    for i in range(n):
        t = row_of(T, i)
        W += t[:, :, None] * t[:, None, :]
    return W


@triton.jit
def connected(edges, n: tl.constexpr):
    """(B, P, P) of 0 and 1: whether there is a path, of length 0 or more (Warshall 1962)."""
    reach = tl.maximum(edges, (row(edges.shape[1]) == column(edges.shape[1])).to(tl.int32))
    for m in range(n):
        reach = tl.maximum(reach, column_of(reach, m)[:, :, None] * row_of(reach, m)[:, None, :])
    return reach


@triton.jit
def matching(cost, n: tl.constexpr):
    """(B, P, P) -> (B, P): the row of each column in a perfect matching with the least sum of costs.

    The Hungarian method by shortest augmenting paths, as eager/matching.py; place -1 is the column before the first.
    """
    P: tl.constexpr = cost.shape[1]
    inf: tl.constexpr = float("inf")
    j = lane(P)
    cost = tl.where(column(P) < n, cost, inf)
    u = row_of(cost, 0) * 0.0
    u = tl.where(u == u, u, 0.0)
    v = u
    owner = (u * 0.0).to(tl.int32) - 1
    for i in range(n):
        at = tl.sum(owner * 0, 1) - 1
        way = owner * 0 - 1
        used = owner * 0
        distance = u * 0.0 + inf
        for _ in range(i + 1):
            here = tl.where(at < 0, i, entry_of(owner, at))
            going = here >= 0
            used = tl.maximum(used, (going[:, None] & (j == at[:, None])).to(tl.int32))
            reduced = tl.sum(tl.where(row(P) == here[:, None, None], cost, 0.0), 1) - entry_of(u, here)[:, None] - v
            nearer = going[:, None] & (used == 0) & (reduced < distance)
            distance = tl.where(nearer, reduced, distance)
            way = tl.where(nearer, at[:, None], way)
            open = tl.where((used != 0) | (j >= n), inf, distance)
            step = tl.where(going, tl.min(open, 1), 0.0)
            step = tl.where(step < inf, step, 0.0)
            following = tl.min(tl.where(open <= tl.min(open, 1)[:, None], j, P - 1), 1)
            # rows of the tree: i, and the owners of the columns used
            inside = tl.max(tl.where((owner[:, None, :] == row(P)) & (used[:, None, :] != 0), 1, 0), 2)
            u += tl.where((inside != 0) | (j == i), step[:, None], 0.0)
            v -= tl.where(used != 0, step[:, None], 0.0)
            distance = tl.where(used != 0, distance, distance - step[:, None])
            at = tl.where(going, following, at)
        for _ in range(i + 1):  # hand every column of the path to the row before it
            before = entry_of(way, at)
            taken = tl.where(before < 0, i, entry_of(owner, before))
            on = at >= 0
            owner = tl.where(on[:, None] & (j == at[:, None]), taken[:, None], owner)
            at = tl.where(on, before, at)
    return owner


@triton.jit
def has_total_support(allowed, n: tl.constexpr):
    """allowed (B, P, P) of 0 and 1 -> (B,): whether some doubly stochastic matrix is positive exactly there."""
    P: tl.constexpr = allowed.shape[1]
    matched = rows_picked(allowed, matching(1.0 - allowed.to(tl.float32), n), n)
    reach = connected(matched, n)
    inside = (row(P) < n) & (column(P) < n)
    bad = inside & ((reach != tl.permute(reach, (0, 2, 1))) | ((row(P) == column(P)) & (matched == 0)))
    return tl.max(tl.max(bad.to(tl.int32), 2), 1) == 0
