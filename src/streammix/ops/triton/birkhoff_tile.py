"""The exact Birkhoff projection and its gradient for n up to 16, and for any matrix that birkhoff.py leaves: a matrix
is
a tile. The algorithm is that of eager/birkhoff.py, step by step, where the reasons are."""

import triton
import triton.language as tl

from .birkhoff import HARD
from .levels import UNIT, add, doubled, matrix
from .tiles import column, has_total_support, lane, matching, row, row_of, rows_picked, solve, weights

PASSES = tl.constexpr(3)
MAX_STEP = tl.constexpr(2.0)
MAX_STEPS = tl.constexpr(640)
NONE = tl.constexpr(1e-24)  # two columns coupled by less are not
EPS = tl.constexpr(1.1920929e-7)


@triton.jit
def rows_normalised(T):
    total = tl.sum(T, 2)
    return T * tl.where(total == 0.0, 0.0, 1.0 / total)[:, :, None]


@triton.jit
def any_of(where):
    return tl.max(where.to(tl.int32), 0) != 0


@triton.jit
def levels_of(R, inside):
    """k, the smallest >= 0 for which no row of R / 2^k ranges over more than 8, masked logits left out."""
    out = (-float("inf") == R) | (inside == 0)
    low = tl.min(tl.where(out, float("inf"), R), 2)
    high = tl.max(tl.where(out, -float("inf"), R), 2)
    spread = tl.max(tl.where(high >= low, high * 0.5 - low * 0.5, 0.0), 1)  # the range itself may overflow
    return tl.maximum((((spread * 0.25).to(tl.int32, bitcast=True) >> 23) & 255) - 126, 0)


@triton.jit
def project(R, todo, small, n: tl.constexpr):
    """R (B, P, P) -> T, of the matrices `todo`; 1 / n elsewhere. Ends with the slowest of them."""
    P: tl.constexpr = R.shape[1]
    inside = (row(P) < n) & (column(P) < n)
    within = lane(P) < n
    weak: tl.constexpr = 1 / 32 if n <= 4 else 4 / 32
    R = tl.where(inside & todo[:, None, None], R, 0.0)
    masked = (-float("inf") == R).to(tl.int32)
    has_mask = tl.max(tl.max(masked, 2), 1) != 0
    unsound = ((R != R) | (tl.abs(R) == float("inf"))) & (masked == 0)
    sound = tl.max(tl.max(unsound.to(tl.int32), 2), 1) == 0
    if any_of(has_mask):
        sound = sound & ((has_mask == 0) | has_total_support(tl.where(inside, 1 - masked, 0), n))
    R = tl.where(sound[:, None, None], R, 0.0)
    k = levels_of(R, inside)
    above = k
    zero = row_of(R, 0) * 0.0
    zero = tl.where(zero == zero, zero, 0.0)
    b0, b1, b2 = zero, zero, zero
    order = lane(P) + zero.to(tl.int32)
    T = matrix(R, k, b0, b1, b2, inside)
    for _ in range(PASSES):
        d = tl.where(within, -tl.log(tl.maximum(tl.sum(T, 1), 1e-37)), 0.0)
        T = rows_normalised(T * tl.exp(d)[:, None, :])
        b0 += d * (1.0 / UNIT)

    active = k >= 0
    formed = active
    none = tl.sum(zero, 1) + NONE
    matched = active == 0
    attempt = 0
    steps = 0
    while (attempt < 2) & any_of(active):
        while (steps < MAX_STEPS) & any_of(active):
            W = weights(T, n)
            g = T - tl.permute(T, (0, 2, 1))
            d, least = solve(W, g, n)
            diagonal = tl.min(tl.min(tl.where((row(P) == column(P)) & inside, T, 1.0), 2), 1)
            wanted = active & (matched == 0) & (diagonal < 0.5 / n) & (least < weak)
            if any_of(wanted):  # rows in the order of a heavy matching; no step for these yet
                best = matching(tl.where(inside, -tl.log(tl.maximum(T, 1.2e-38)), 0.0), n)
                best = tl.where(wanted[:, None] & within, best, lane(P))
                T = rows_picked(T, best, n)
                R = rows_picked(R, best, n)
                order = tl.where(
                    within, tl.sum(tl.where(column(P) == best[:, :, None], order[:, None, :], 0), 2), order
                )
                matched = matched | wanted
            going = active & (wanted == 0)
            faint = going & (least < 64.0 * none)
            if any_of(faint):
                cut = faint[:, None, None] & (none[:, None, None] > W)
                d, least = solve(tl.where(cut, 0.0, W), tl.where(cut, 0.0, g), n)
                none = tl.where(faint, 1.125 * none, none)  # nor may an edge come and go for ever
            high = tl.max(tl.where(within, d, -float("inf")), 1)
            low = tl.min(tl.where(within, d, float("inf")), 1)
            size = (high - low) * 0.5
            scale = tl.where(going, tl.where(size > MAX_STEP, MAX_STEP / size, 1.0), 0.0)
            d = tl.where(within & going[:, None], (d - ((high + low) * 0.5)[:, None]) * scale[:, None], 0.0)
            T = tl.where(going[:, None, None], rows_normalised(T * tl.exp(d)[:, None, :]), T)
            b0, b1, b2 = add(b0, b1, b2, d * (1.0 / UNIT))
            sound_step = going & (size < 3e38)
            active = (sound_step & ((size * size > small) | (k > 0))) | wanted
            descends = sound_step & (k > 0) & (size < MAX_STEP)
            if any_of(descends):
                k = tl.where(descends, k - 1, k)
                none = tl.where(descends, NONE, none)
                matched = matched & ((descends == 0) | (k == 0))
                coupled = (weights(T, n) >= NONE).to(tl.int32)
                c0, c1, c2 = doubled(b0, b1, b2, tl.where(inside, coupled, 0), n)
                fresh = matrix(R, k, c0, c1, c2, inside)
                fresh = tl.where(formed[:, None, None], fresh, rows_normalised(T * T))
                T = tl.where(descends[:, None, None], fresh, T)
                b0 = tl.where(descends[:, None], c0, b0)
                b1 = tl.where(descends[:, None], c1, b1)
                b2 = tl.where(descends[:, None], c2, b2)
            steps += 1
        # Logits whose sums tie, or nearly, through more digits than the potentials have: once more by squares.
        attempt += 1
        steps = 0
        residual = tl.sum(tl.where(within, tl.abs(tl.sum(T, 1) - 1.0), 0.0), 1)
        failed = ((residual < n * tl.maximum(8.0 * EPS, small)) == 0) | (k > 0)
        active = (attempt < 2) & failed & (above > 0)
        formed = formed & (active == 0)
        T = tl.where(active[:, None, None], matrix(R, above, zero, zero, zero, inside), T)
        k = tl.where(active, above, k)
        none = tl.where(active, NONE, none)
        matched = matched & (active == 0)

    T += T * tl.where(within, 1.0 - tl.sum(T, 1), 0.0)[:, None, :]
    T = rows_normalised(T)
    # back in the rows' own order: row i of the result is row j with order_j = i
    back = tl.sum(tl.where(order[:, None, :] == row(P), column(P), 0), 2)
    T = rows_picked(T, back, n)
    return tl.where(sound[:, None, None], T, float("nan"))


@triton.jit
def column_of_rows(M, k):
    return tl.sum(tl.where(column(M.shape[1]) == k, M, 0.0), 2)[:, :, None]


@triton.jit
def potentials(T, G, n: tl.constexpr):
    """w of L w = sums of the flows F_jk = sum_i T_ij T_ik (G_ij - G_ik)."""
    F = T * 0.0
    for i in range(n):
        t, g = row_of(T, i), row_of(G, i)
        F += (t[:, :, None] * t[:, None, :]) * (g[:, :, None] - g[:, None, :])
    w, _ = solve(weights(T, n), F, n)
    return w


@triton.jit
def project_backward(T, G, n: tl.constexpr):
    """The implicit derivative: potentials twice, because what is left of G after the first is as small as D."""
    P: tl.constexpr = T.shape[1]
    w = potentials(T, G, n)[:, None, :]
    high = G - w
    back = high - G
    low = (G - (high - back)) - (w + back)
    most = tl.max(T, 2)[:, :, None]
    largest = tl.min(tl.where(most == T, column(P), P - 1), 2)[:, :, None]
    top = tl.sum(tl.where(column(P) == largest, high, 0.0), 2)[:, :, None]
    rest = tl.sum(tl.where(column(P) == largest, low, 0.0), 2)[:, :, None]
    left = (high - top) + (low - rest)
    w = potentials(T, left, n)
    E = T * 0.0
    for k in range(n):
        wk = tl.sum(tl.where(lane(P) == k, w, 0.0), 1)[:, None, None]
        E += column_of_rows(T, k) * ((left - column_of_rows(left, k)) - (w[:, None, :] - wk))
    return T * E


@triton.jit
def places(first, n: tl.constexpr, P: tl.constexpr, B: tl.constexpr, count):
    """Where B matrices from `first` on are in memory, and which of their numbers exist."""
    matrix = (first + tl.arange(0, B))[:, None, None]
    return matrix * (n * n) + row(P) * n + column(P), (matrix < count) & (row(P) < n) & (column(P) < n)


@triton.jit
def forward_tile(
    R_ptr, T_ptr, first, count, small, n: tl.constexpr, P: tl.constexpr, B: tl.constexpr, LEFT: tl.constexpr
):
    at, inside = places(first, n, P, B, count)
    todo = first + tl.arange(0, B) < count
    if LEFT:
        mark = tl.load(T_ptr + (first + tl.arange(0, B)) * (n * n), mask=todo, other=0.0)
        todo = todo & (mark == HARD)
    if any_of(todo):
        T = project(tl.load(R_ptr + at, mask=inside, other=0.0), todo, small, n)
        tl.store(T_ptr + at, T, mask=inside & todo[:, None, None])


@triton.jit
def backward_tile(
    G_ptr, T_ptr, D_ptr, first, count, n: tl.constexpr, P: tl.constexpr, B: tl.constexpr, LEFT: tl.constexpr
):
    at, inside = places(first, n, P, B, count)
    todo = first + tl.arange(0, B) < count
    if LEFT:
        mark = tl.load(D_ptr + (first + tl.arange(0, B)) * (n * n), mask=todo, other=0.0)
        todo = todo & (mark != mark)
    if any_of(todo):
        T = tl.load(T_ptr + at, mask=inside, other=0.0)
        D = project_backward(T, tl.load(G_ptr + at, mask=inside, other=0.0), n)
        tl.store(D_ptr + at, D, mask=inside & todo[:, None, None])


@triton.jit(do_not_specialize=["count"])
def forward_kernel(R_ptr, T_ptr, count, small, n: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """Grid: blocks of B matrices."""
    forward_tile(R_ptr, T_ptr, tl.program_id(0).to(tl.int64) * B, count, small, n, P, B, False)


@triton.jit(do_not_specialize=["count"])
def backward_kernel(G_ptr, T_ptr, D_ptr, count, n: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    backward_tile(G_ptr, T_ptr, D_ptr, tl.program_id(0).to(tl.int64) * B, count, n, P, B, False)


@triton.jit(do_not_specialize=["count", "blocks"])
def forward_left_kernel(
    R_ptr, T_ptr, hard_ptr, count, blocks, small,
    n: tl.constexpr, P: tl.constexpr, B: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The matrices that birkhoff.forward_kernel left in its blocks of BLOCK. Grid: groups of SPAN such blocks; most
    programs read SPAN bytes and end."""
    block = tl.program_id(0).to(tl.int64) * SPAN + tl.arange(0, SPAN)
    if tl.max(tl.load(hard_ptr + block, mask=block < blocks, other=0).to(tl.int32), 0) != 0:
        for s in range(SPAN):
            here = tl.program_id(0).to(tl.int64) * SPAN + s
            if tl.load(hard_ptr + here, mask=here < blocks, other=0) != 0:
                for b in range(0, BLOCK, B):
                    forward_tile(R_ptr, T_ptr, here * BLOCK + b, count, small, n, P, B, True)


@triton.jit(do_not_specialize=["count", "blocks"])
def backward_left_kernel(
    G_ptr, T_ptr, D_ptr, hard_ptr, count, blocks,
    n: tl.constexpr, P: tl.constexpr, B: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """The same for birkhoff.backward_kernel."""
    block = tl.program_id(0).to(tl.int64) * SPAN + tl.arange(0, SPAN)
    if tl.max(tl.load(hard_ptr + block, mask=block < blocks, other=0).to(tl.int32), 0) != 0:
        for s in range(SPAN):
            here = tl.program_id(0).to(tl.int64) * SPAN + s
            if tl.load(hard_ptr + here, mask=here < blocks, other=0) != 0:
                for b in range(0, BLOCK, B):
                    backward_tile(G_ptr, T_ptr, D_ptr, here * BLOCK + b, count, n, P, B, True)
