"""Truncated Sinkhorn-Knopp by the rules of ../sinkhorn_rules.py, and its exact gradient; as eager/sinkhorn.py.

For n <= 6 a matrix is a thread's, a tuple of registers; beyond, a tile (TILE). The gradient runs the rounds anew
instead
of having stored them: in runs of about sqrt(rounds), whose starts are made again from the logits.
"""

import triton
import triton.language as tl

from .registers import LOG2E, load, reciprocal, store
from .tiles import column, row

LOG, EXP, SOFTMAX = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # starts, by their number in the rules


# --- sums and products along an axis: ROWS, over the columns of each row ---------------------------------------------


@triton.jit
def sums(M, ROWS: tl.constexpr, n: tl.constexpr, TILE: tl.constexpr):
    """(B, P) or n tensors."""
    if TILE:
        return tl.sum(M, 2 if ROWS else 1)
    else:
        out = ()
        for a in tl.static_range(n):
            s = M[a * n if ROWS else a]
            for b in tl.static_range(1, n):
                s += M[a * n + b if ROWS else b * n + a]
            out = out + (s,)
        return out


@triton.jit
def maxima(M, ROWS: tl.constexpr, n: tl.constexpr, TILE: tl.constexpr):
    if TILE:
        P: tl.constexpr = M.shape[1]
        least: tl.constexpr = -float("inf")
        return tl.max(tl.where((row(P) < n) & (column(P) < n), M, least), 2 if ROWS else 1)
    else:
        out = ()
        for a in tl.static_range(n):
            s = M[a * n if ROWS else a]
            for b in tl.static_range(1, n):
                s = tl.maximum(s, M[a * n + b if ROWS else b * n + a])
            out = out + (s,)
        return out


@triton.jit
def along(f, ROWS: tl.constexpr):
    return f[:, :, None] if ROWS else f[:, None, :]


@triton.jit
def scaled(M, f, ROWS: tl.constexpr, n: tl.constexpr, TILE: tl.constexpr):
    """M times a factor for each row (column)."""
    if TILE:
        return M * along(f, ROWS)
    else:
        out = ()
        for i in tl.static_range(n):
            for j in tl.static_range(n):
                out = out + (M[i * n + j] * f[i if ROWS else j],)
        return out


@triton.jit
def exponential(M, f, factor: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, TILE: tl.constexpr):
    """e^(factor (M - f)), f along the axis."""
    if TILE:
        P: tl.constexpr = M.shape[1]
        return tl.where((row(P) < n) & (column(P) < n), tl.exp2((M - along(f, ROWS)) * (factor * LOG2E)), 0.0)
    else:
        out = ()
        for i in tl.static_range(n):
            for j in tl.static_range(n):
                out = out + (tl.exp2((M[i * n + j] - f[i if ROWS else j]) * (factor * LOG2E)),)
        return out


@triton.jit
def less(A, M, f, ROWS: tl.constexpr, n: tl.constexpr, TILE: tl.constexpr):
    """A - M f, f along the axis."""
    if TILE:
        return A - M * along(f, ROWS)
    else:
        out = ()
        for i in tl.static_range(n):
            for j in tl.static_range(n):
                out = out + (A[i * n + j] - M[i * n + j] * f[i if ROWS else j],)
        return out


@triton.jit
def inverses(s, eps, START: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr):
    """1 / g(s): s + eps after "softmax", max(s, eps) after "exp"."""
    if TILE:
        g = s + eps if START == SOFTMAX else (tl.maximum(s, eps) if START == EXP else s)
        return tl.where(s != 0.0, reciprocal(g, FAST), 0.0)
    else:
        out = ()
        for a in tl.static_range(n):
            g = s[a] + eps if START == SOFTMAX else (tl.maximum(s[a], eps) if START == EXP else s[a])
            out = out + (reciprocal(g, FAST),)
        return out


@triton.jit
def halves(M, n: tl.constexpr, TILE: tl.constexpr):
    """M / 2, whose differences cannot overflow."""
    if TILE:
        return M * 0.5
    else:
        out = ()
        for e in tl.static_range(n * n):
            out = out + (M[e] * 0.5,)
        return out


@triton.jit
def divided(M, eps, ROWS: tl.constexpr, START: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr):
    return scaled(M, inverses(sums(M, ROWS, n, TILE), eps, START, n, FAST, TILE), ROWS, n, TILE)


# --- forward ---------------------------------------------------------------------------------------------------------


@triton.jit
def softmax(R, ROWS: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr):
    half = halves(R, n, TILE)
    K = exponential(half, maxima(half, ROWS, n, TILE), 2.0, ROWS, n, TILE)
    return divided(K, 0.0, ROWS, LOG, n, FAST, TILE)


@triton.jit
def start(R, eps, START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr):
    """The positive matrix before the first division; ROWS: whether a round begins on the rows."""
    half = halves(R, n, TILE)
    top = maxima(half, ROWS, n, TILE)
    if START == SOFTMAX:
        M = softmax(R, ROWS, n, FAST, TILE)
        if TILE:
            P: tl.constexpr = M.shape[1]
            return tl.where((row(P) < n) & (column(P) < n), M + eps, 0.0)
        else:
            out = ()
            for e in tl.static_range(n * n):
                out = out + (M[e] + eps,)
            return out
    elif START == EXP:
        return exponential(half, top, 2.0, ROWS, n, TILE)
    else:  # softmax(log_softmax(R, first), second), whose logarithms would be lost in large logits
        total = sums(exponential(half, top, 2.0, ROWS, n, TILE), ROWS, n, TILE)
        if TILE:
            half = half - along(top, ROWS)
        else:
            below = ()
            for i in tl.static_range(n):
                for j in tl.static_range(n):
                    below = below + (half[i * n + j] - top[i if ROWS else j],)
            half = below
        SECOND: tl.constexpr = not ROWS
        M = exponential(half, maxima(half, SECOND, n, TILE), 2.0, SECOND, n, TILE)
        M = scaled(M, inverses(total, 0.0, LOG, n, FAST, TILE), ROWS, n, TILE)
        return divided(M, 0.0, SECOND, LOG, n, FAST, TILE)


@triton.jit
def after_start(
    R, eps, START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr
):
    """The matrix at the end of a round, from where whole rounds follow."""
    M = start(R, eps, START, ROWS, n, FAST, TILE)
    if START == SOFTMAX:
        M = divided(M, eps, not ROWS, START, n, FAST, TILE)
    return M


@triton.jit
def iterated(
    M, count, eps, START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr
):
    """`count` rounds on."""
    for _ in range(count):
        M = divided(M, eps, ROWS, START, n, FAST, TILE)
        M = divided(M, eps, not ROWS, START, n, FAST, TILE)
    return M


@triton.jit
def poisoned(M, R, n: tl.constexpr, TILE: tl.constexpr):
    """NaN throughout where some logit is not finite."""
    if TILE:
        return M + tl.sum(tl.sum(R * 0.0, 2), 1)[:, None, None]
    else:
        poison = R[0] * 0.0
        for e in tl.static_range(1, n * n):
            poison += R[e] * 0.0
        out = ()
        for e in tl.static_range(n * n):
            out = out + (M[e] + poison,)
        return out


@triton.jit
def sinkhorn(
    R, rounds, eps, START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr
):
    M = after_start(R, eps, START, ROWS, n, FAST, TILE)
    M = iterated(M, rounds - (START != EXP), eps, START, ROWS, n, FAST, TILE)
    return poisoned(M, R, n, TILE)


# --- backward: A is the adjoint of log M ------------------------------------------------------------------------------


@triton.jit
def pulled(
    A, before, eps, ROWS: tl.constexpr, START: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr
):
    """A before a division M' = M / g(s):   A -= M' o (sum A),  and nothing where s is clamped."""
    s = sums(before, ROWS, n, TILE)
    after = scaled(before, inverses(s, eps, START, n, FAST, TILE), ROWS, n, TILE)
    pull = sums(A, ROWS, n, TILE)
    if START == EXP:
        if TILE:
            pull = tl.where(s < eps, 0.0, pull)
        else:
            kept = ()
            for a in tl.static_range(n):
                kept = kept + (tl.where(s[a] < eps, 0.0, pull[a]),)
            pull = kept
    return less(A, after, pull, ROWS, n, TILE)


@triton.jit
def product(A, B, n: tl.constexpr, TILE: tl.constexpr):
    if TILE:
        return A * B
    else:
        out = ()
        for e in tl.static_range(n * n):
            out = out + (A[e] * B[e],)
        return out


@triton.jit
def start_backward(
    A, R, eps, START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr
):
    """From the adjoint of the logarithm of the start to that of the logits."""
    if START == EXP:  # the maximum cancels in the first division
        return A
    elif START == SOFTMAX:
        K = softmax(R, ROWS, n, FAST, TILE)
        if TILE:
            A = A * (K / tl.where(K + eps > 0.0, K + eps, 1.0))
        else:
            out = ()
            for e in tl.static_range(n * n):
                out = out + (A[e] * (K[e] * reciprocal(K[e] + eps, FAST)),)
            A = out
        return less(A, K, sums(A, ROWS, n, TILE), ROWS, n, TILE)
    else:
        SECOND: tl.constexpr = not ROWS
        M = start(R, eps, START, ROWS, n, FAST, TILE)
        A = less(A, M, sums(A, SECOND, n, TILE), SECOND, n, TILE)
        return less(A, softmax(R, ROWS, n, FAST, TILE), sums(A, ROWS, n, TILE), ROWS, n, TILE)


@triton.jit
def sinkhorn_backward(
    G, R, rounds, run, eps,
    START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, FAST: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """run: about sqrt(rounds)."""
    whole = rounds - (START != EXP)
    M = iterated(after_start(R, eps, START, ROWS, n, FAST, TILE), whole, eps, START, ROWS, n, FAST, TILE)
    A = product(G, M, n, TILE)
    SECOND: tl.constexpr = not ROWS
    runs = (whole + run - 1) // run
    for q in range(runs):
        first = (runs - 1 - q) * run
        base = iterated(after_start(R, eps, START, ROWS, n, FAST, TILE), first, eps, START, ROWS, n, FAST, TILE)
        here = tl.minimum(run, whole - first)
        for p in range(here):
            before = iterated(base, here - 1 - p, eps, START, ROWS, n, FAST, TILE)
            between = divided(before, eps, ROWS, START, n, FAST, TILE)
            A = pulled(A, between, eps, SECOND, START, n, FAST, TILE)
            A = pulled(A, before, eps, ROWS, START, n, FAST, TILE)
    if START == SOFTMAX:
        A = pulled(A, start(R, eps, START, ROWS, n, FAST, TILE), eps, SECOND, START, n, FAST, TILE)
    A = start_backward(A, R, eps, START, ROWS, n, FAST, TILE)
    return poisoned(A, R, n, TILE)


# --- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["count", "rounds"])
def forward_kernel(
    R_ptr, M_ptr, count, rounds, eps,
    START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Grid: blocks of BLOCK matrices, n <= 6."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = rows < count
    M = sinkhorn(load(R_ptr, rows, mask, n), rounds, eps, START, ROWS, n, FAST, False)
    store(M_ptr, M, rows, mask, n)


@triton.jit(do_not_specialize=["count", "rounds", "run"])
def backward_kernel(
    G_ptr, R_ptr, D_ptr, count, rounds, run, eps,
    START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = rows < count
    G, R = load(G_ptr, rows, mask, n), load(R_ptr, rows, mask, n)
    store(D_ptr, sinkhorn_backward(G, R, rounds, run, eps, START, ROWS, n, FAST, False), rows, mask, n)


@triton.jit
def places(n: tl.constexpr, P: tl.constexpr, B: tl.constexpr, count):
    matrix = (tl.program_id(0).to(tl.int64) * B + tl.arange(0, B))[:, None, None]
    return matrix * (n * n) + row(P) * n + column(P), (matrix < count) & (row(P) < n) & (column(P) < n)


@triton.jit(do_not_specialize=["count", "rounds"])
def forward_tile_kernel(
    R_ptr, M_ptr, count, rounds, eps,
    START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, P: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Grid: blocks of B matrices."""
    at, inside = places(n, P, B, count)
    M = sinkhorn(tl.load(R_ptr + at, mask=inside, other=0.0), rounds, eps, START, ROWS, n, False, True)
    tl.store(M_ptr + at, M, mask=inside)


@triton.jit(do_not_specialize=["count", "rounds", "run"])
def backward_tile_kernel(
    G_ptr, R_ptr, D_ptr, count, rounds, run, eps,
    START: tl.constexpr, ROWS: tl.constexpr, n: tl.constexpr, P: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    at, inside = places(n, P, B, count)
    G, R = tl.load(G_ptr + at, mask=inside, other=0.0), tl.load(R_ptr + at, mask=inside, other=0.0)
    D = sinkhorn_backward(G, R, rounds, run, eps, START, ROWS, n, False, True)
    tl.store(D_ptr + at, D, mask=inside)
