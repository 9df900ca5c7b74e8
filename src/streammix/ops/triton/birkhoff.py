"""The exact Birkhoff projection and its gradient for n <= 6: one matrix a thread, in registers.

The algorithm is that of eager/birkhoff.py and csrc/matrices/birkhoff.h. What is too rare, and too long, for the
registers of every thread is left to birkhoff_tile.py: logits that range over more than 8 * 2^FEW, masks, graphs that
fall apart, and for n > 4 rows out of order. Such a matrix leaves with HARD in its first entry, and its program says
that it has one.
"""

import triton
import triton.language as tl

from .registers import (
    LOG2E,
    any_of,
    chosen,
    edge,
    load,
    reciprocal,
    rounded_product,
    row_sum,
    rows_normalised,
    solve,
    store,
)

HARD = tl.constexpr(-1.0)  # no entry of a result
FEW = tl.constexpr(4)  # so many levels are squarings of T, which cost as many bits of it
PASSES = tl.constexpr(3)  # Sinkhorn passes before the first Newton step
MAX_STEP = tl.constexpr(3.0)
WEAK = tl.constexpr(1 / 32)  # columns coupled by less: the order of the rows matters
FAINT = tl.constexpr(64e-24)  # by less: the graph nearly falls apart
MAX_STEPS = tl.constexpr(96)
LOST = tl.constexpr(1 / 128)  # of a gradient, if no more is left of what went into it
AS_IT_IS = tl.constexpr(0 + (1 << 2) + (2 << 4) + (3 << 6))  # the order in which row j belongs to column j
BEYOND = tl.constexpr(1000)  # a level for what is left to the tile
DONE, GOING, DISORDERED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)  # what a matrix is


@triton.jit
def exponentials(R, n: tl.constexpr):
    """e^(R / 2^k) up to a factor for each row, with the smallest k >= 0 that keeps it in e^-8 .. e^8; and k.

    Differences are taken of halves, because R may be as large as the format's limit. What is not finite makes k large,
    and NaN the result NaN.
    """
    D = ()
    spread = tl.full(R[0].shape, 0.0, tl.float32)
    for i in tl.static_range(n):
        half = R[i * n] * 0.5
        D = D + (half - half,)
        for j in tl.static_range(1, n):
            d = R[i * n + j] * 0.5 - half
            spread = tl.maximum(spread, tl.abs(d))
            D = D + (d,)
    bits = (spread * 0.25).to(tl.int32, bitcast=True)
    k = tl.maximum(((bits >> 23) & 255) - 126, 0)
    scale = ((128 - k) << 23).to(tl.float32, bitcast=True) * LOG2E  # 2 / 2^k / log 2
    K = ()
    for i in tl.static_range(n):
        K = K + (D[i * n] + 1.0,)
        for j in tl.static_range(1, n):
            K = K + (tl.exp2(D[i * n + j] * scale),)
    return K, k


@triton.jit
def begun(K, n: tl.constexpr, FAST: tl.constexpr):
    """Sinkhorn passes on diag(u) K diag(v), v over-relaxed from the second on; then T with unit rows."""
    v = ()
    for p in tl.static_range(PASSES):
        c = ()
        for i in tl.static_range(n):
            s = K[i * n] if p == 0 else K[i * n] * v[0]
            for j in tl.static_range(1, n):
                s += K[i * n + j] if p == 0 else K[i * n + j] * v[j]
            u = reciprocal(s, FAST)
            sums = ()
            for j in tl.static_range(n):
                sums = sums + ((K[i * n + j] * u) if i == 0 else (c[j] + K[i * n + j] * u),)
            c = sums
        following = ()
        for j in tl.static_range(n):
            x = reciprocal(c[j], FAST)
            following = following + (x if p == 0 else x + (x - v[j]) * (1.0 / n),)
        v = following
    T = ()
    for i in tl.static_range(n):
        for j in tl.static_range(n):
            T = T + (K[i * n + j] * v[j],)
    return rows_normalised(T, n, FAST)


@triton.jit
def graph(T, n: tl.constexpr):
    """Weights W_jk = sum_i T_ij T_ik and flows g_jk = T_jk - T_kj, j < k: a Newton step solves L d = 1 - c, and
    1 - c_j = sum_k g_jk because the rows of T sum to one."""
    w = ()
    g = ()
    for j in tl.static_range(n):
        for k in tl.static_range(j + 1, n):
            s = T[j] * T[k]
            for i in tl.static_range(1, n):
                s += T[i * n + j] * T[i * n + k]
            w = w + (s,)
            g = g + (T[j * n + k] - T[k * n + j],)
    return w, g


@triton.jit
def newton(T, k, state, unmatched, small, n: tl.constexpr, HOMOTOPY: tl.constexpr, FAST: tl.constexpr):
    """One step T_ij *= e^d_j, rows normalised, of the matrices GOING; with HOMOTOPY those above level 0 are squared
    too, which doubles their inverse temperature, once no step need be shortened. Others stay, to the bit.

    DISORDERED in the result: those whose rows must be brought in order first; they took no step. k = BEYOND: those for
    the tile."""
    w, g = graph(T, n)
    d, least = solve(w, g, n, False, FAST)
    diagonal = T[0]
    for j in tl.static_range(1, n):
        diagonal = tl.minimum(diagonal, T[j * n + j])
    weak: tl.constexpr = WEAK if n <= 4 else 4 * WEAK
    disordered = (least < weak) & (diagonal < 0.5 / n) & unmatched & (state == GOING)
    beyond = (least < FAINT) & (state == GOING)
    if n > 4:
        beyond = beyond | disordered
        going = (state == GOING) & (beyond == 0)
    else:
        going = (state == GOING) & (beyond == 0) & (disordered == 0)
    # d of the last column is 0, and what all have in common does not matter: size is one to two times half their range
    size = tl.abs(d[0])
    for j in tl.static_range(1, n - 1):
        size = tl.maximum(size, tl.abs(d[j]))
    # min(1, MAX_STEP / size) / log 2
    scale = tl.where(size > MAX_STEP, (MAX_STEP * LOG2E) * reciprocal(size, FAST), LOG2E)
    scale = tl.where(going, scale, 0.0)
    if HOMOTOPY:
        squared = going & (k > 0) & (size < MAX_STEP)
        more = going & (size * size > tl.where(k > 0, -1.0, small))  # a NaN stops
        k = k - squared.to(tl.int32)
    else:
        more = going & (size * size > small)
    state = tl.where(more, GOING, DONE)
    if n <= 4:
        state = tl.where(disordered, DISORDERED, state)
    k = tl.where(beyond, BEYOND, k)
    e = ()
    for j in tl.static_range(n - 1):
        e = e + (tl.exp2(d[j] * scale),)
    out = ()
    for i in tl.static_range(n):
        t = ()
        for j in tl.static_range(n):
            # the same bits with HOMOTOPY and without: which a matrix takes depends on others of its program
            x = T[i * n + j] if j == n - 1 else rounded_product(T[i * n + j], e[j], FAST)
            if HOMOTOPY:
                x = tl.where(squared, x * x, x)
            t = t + (x,)
        r = tl.where(going, reciprocal(row_sum(t, 0, n), FAST), 1.0)
        for j in tl.static_range(n):
            out = out + (t[j] * r,)
    return out, k, state


@triton.jit
def better3(T, most, source, a: tl.constexpr, b: tl.constexpr, c: tl.constexpr):
    """The matching of rows a, b, c with columns 0, 1, 2, where the product of its entries is larger."""
    product = T[a * 3] * T[b * 3 + 1] * T[c * 3 + 2]
    return tl.maximum(most, product), tl.where(product > most, a + (b << 2) + (c << 4), source)


@triton.jit
def better4(T, most, source, a: tl.constexpr, b: tl.constexpr, c: tl.constexpr, d: tl.constexpr):
    """The matching of rows 0, 1 with columns a, b, and of rows 2, 3 with c, d, each pair in the better of its
    orders."""
    up, down = T[a] * T[4 + b], T[b] * T[4 + a]
    lower_up, lower_down = T[8 + c] * T[12 + d], T[8 + d] * T[12 + c]
    upper = tl.where(up < down, 1 << (2 * a), 1 << (2 * b))
    lower = tl.where(lower_up < lower_down, (3 << (2 * c)) + (2 << (2 * d)), (2 << (2 * c)) + (3 << (2 * d)))
    product = tl.maximum(up, down) * tl.maximum(lower_up, lower_down)
    return tl.maximum(most, product), tl.where(product > most, upper + lower, source)


@triton.jit
def best_order(T, n: tl.constexpr):
    """The perfect matching with the greatest product: the row of each column j, two bits each from bit 2j on."""
    most = tl.full(T[0].shape, -1.0, tl.float32)
    source = tl.full(T[0].shape, 0, tl.int32)
    if n == 3:
        most, source = better3(T, most, source, 0, 1, 2)
        most, source = better3(T, most, source, 0, 2, 1)
        most, source = better3(T, most, source, 1, 0, 2)
        most, source = better3(T, most, source, 1, 2, 0)
        most, source = better3(T, most, source, 2, 0, 1)
        most, source = better3(T, most, source, 2, 1, 0)
    else:
        most, source = better4(T, most, source, 0, 1, 2, 3)
        most, source = better4(T, most, source, 0, 2, 1, 3)
        most, source = better4(T, most, source, 0, 3, 1, 2)
        most, source = better4(T, most, source, 1, 2, 0, 3)
        most, source = better4(T, most, source, 1, 3, 0, 2)
        most, source = better4(T, most, source, 2, 3, 0, 1)
    return source


@triton.jit
def in_order(T, source, n: tl.constexpr):
    """Row j of the result is the row of T that `source` has for column j. Column by column, to hold few of both."""
    columns = ()
    for m in tl.static_range(n):
        for j in tl.static_range(n):
            row = (source >> (2 * j)) & 3
            x = T[m]
            for i in tl.static_range(1, n):
                x = tl.where(row == i, T[i * n + m], x)
            columns = columns + (x,)
    out = ()
    for j in tl.static_range(n):
        for m in tl.static_range(n):
            out = out + (columns[m * n + j],)
    return out


@triton.jit
def inverse(source, n: tl.constexpr):
    """The order that undoes `source`."""
    back = source * 0
    for j in tl.static_range(n):
        back += j << (2 * ((source >> (2 * j)) & 3))
    return back


@triton.jit
def polished(T, n: tl.constexpr, FAST: tl.constexpr):
    """One Sinkhorn pass, columns then rows, as corrections: with sums next to one this rounds least."""
    c = ()
    for j in tl.static_range(n):
        missing = 1.0 - T[j]
        for i in tl.static_range(1, n):
            missing -= T[i * n + j]
        c = c + (missing,)
    out = ()
    for i in tl.static_range(n):
        t = ()
        missing = 1.0 - (T[i * n] + T[i * n] * c[0])
        t = t + (T[i * n] + T[i * n] * c[0],)
        for j in tl.static_range(1, n):
            x = T[i * n + j] + T[i * n + j] * c[j]
            missing -= x
            t = t + (x,)
        r = missing * reciprocal(1.0 - missing, FAST)
        for j in tl.static_range(n):
            out = out + (t[j] + t[j] * r,)
    return out


@triton.jit
def difference(a, b):
    """a - b and its rounding error."""
    d = a - b
    back = d - a
    return d, (a - (d - back)) - (b + back)


@triton.jit
def project2(R, FAST: tl.constexpr):
    """n = 2 in closed form: T_11 = T_22 = sigmoid((R_11 + R_22 - R_12 - R_21) / 2). -inf may mask one diagonal."""
    minus: tl.constexpr = -float("inf")
    off = (R[1] == minus) & (R[2] == minus)
    on = (R[0] == minus) & (R[3] == minus) & (off == 0)
    d0, e0 = difference(R[0] * 0.5, R[1] * 0.5)
    d1, e1 = difference(R[3] * 0.5, R[2] * 0.5)
    x = (d0 + d1) + (e0 + e1)
    x = tl.where(off, 200.0, tl.where(on, -200.0, x))
    # NaN where something else is not finite
    poison = tl.where(on, 0.0, R[0]) * 0.0 + tl.where(on, 0.0, R[3]) * 0.0
    poison += tl.where(off, 0.0, R[1]) * 0.0 + tl.where(off, 0.0, R[2]) * 0.0
    e = tl.where(tl.abs(x) < 86.0, tl.exp2(tl.abs(x) * -LOG2E), 0.0) + poison
    larger = reciprocal(1.0 + e, FAST)
    smaller = e * larger
    diagonal = tl.where(x < 0.0, smaller, larger)
    across = tl.where(x < 0.0, larger, smaller)
    return (diagonal, across, across, diagonal)


@triton.jit
def project(R, small, n: tl.constexpr, FAST: tl.constexpr):
    """Logits to T; HARD in the first entry of those left to the tile. Ends with the slowest of the program's matrices;
    the loop with levels is entered where logits range far, and rows are put in order where some T_jj is small."""
    if n == 2:
        return project2(R, FAST)
    else:
        K, k = exponentials(R, n)
        T = begun(K, n, FAST)
        state = tl.where((T[0] == T[0]) & (k <= FEW), GOING, DONE)
        source = k * 0 + AS_IT_IS
        steps = 0
        while (steps < MAX_STEPS) & (tl.max(state, 0) != DONE):
            unmatched = source == AS_IT_IS
            while (steps < MAX_STEPS) & (tl.max(tl.where((state == GOING) & (k <= 0), DONE, state), 0) == GOING):
                T, k, state = newton(T, k, state, unmatched, small, n, True, FAST)
                steps += 1
            while (steps < MAX_STEPS) & (tl.max(state, 0) == GOING):
                T, k, state = newton(T, k, state, unmatched, small, n, False, FAST)
                steps += 1
            if n <= 4:
                if tl.max(state, 0) == DISORDERED:
                    best = tl.where(state == DISORDERED, best_order(T, n), AS_IT_IS)
                    T = in_order(T, best, n)
                    source = tl.where(state == DISORDERED, best, source)
                    state = tl.minimum(state, GOING)
        T = polished(T, n, FAST)
        if n <= 4:
            if any_of(source != AS_IT_IS):
                T = in_order(T, inverse(source, n), n)
        return (tl.where((k > FEW) | (state != DONE), HARD, T[0]),) + T[1:]


@triton.jit(do_not_specialize=["count"])
def forward_kernel(R_ptr, T_ptr, hard_ptr, count, small, n: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr):
    """Grid: blocks of BLOCK matrices. hard (blocks,): whether a block leaves some to the tile."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = rows < count
    T = project(load(R_ptr, rows, mask, n), small, n, FAST)
    store(T_ptr, T, rows, mask, n)
    if n > 2:
        tl.store(hard_ptr + tl.program_id(0), any_of(mask & (T[0] == HARD)).to(tl.int8))


@triton.jit
def pulled(T, G, n: tl.constexpr, FAST: tl.constexpr):
    """D, x, and where so much cancels that x should be taken off G first:

    D_ij = T_ij sum_k T_ik ((G_ij - G_ik) - (x_j - x_k)),   L x = sums of the flows F_jk = sum_i T_ij T_ik (G_ij - G_ik)
    """
    w = ()
    g = ()
    for j in tl.static_range(n):
        for k in tl.static_range(j + 1, n):
            weight = T[j] * T[k]
            flow = weight * (G[j] - G[k])
            for i in tl.static_range(1, n):
                t = T[i * n + j] * T[i * n + k]
                weight += t
                flow += t * (G[i * n + j] - G[i * n + k])
            w = w + (weight,)
            g = g + (flow,)
    x, _ = solve(w, g, n, True, FAST)
    D = ()
    for i in tl.static_range(n):
        e = ()
        for j in tl.static_range(n):
            for k in tl.static_range(j + 1, n):
                t = T[i * n + j] * T[i * n + k]
                e = e + (t * ((G[i * n + j] - G[i * n + k]) - (x[j] - x[k])),)
        for j in tl.static_range(n - 1):
            s = e[edge(j, j + 1, n)]
            for k in tl.static_range(j + 2, n):
                s += e[edge(j, k, n)]
            for k in tl.static_range(j):
                s -= e[edge(k, j, n)]
            D = D + (s,)
        s = e[edge(0, n - 1, n)]
        for k in tl.static_range(1, n - 1):
            s += e[edge(k, n - 1, n)]
        D = D + (-s,)
    left = tl.abs(D[0])  # rows and columns sum to zero: the last ones say nothing new
    for i in tl.static_range(n - 1):
        for j in tl.static_range(1 if i == 0 else 0, n - 1):
            left = tl.maximum(left, tl.abs(D[i * n + j]))
    most = w[0] * (tl.abs(x[0]) + tl.abs(x[1]))
    for j in tl.static_range(n):
        for k in tl.static_range(2 if j == 0 else j + 1, n):
            most += w[edge(j, k, n)] * (tl.abs(x[j]) + tl.abs(x[k]))
    return D, x, left < most * LOST


@triton.jit
def taken_off(T, G, x, n: tl.constexpr):
    """G_ij - x_j less that of the row's largest entry of T, with the rounding errors of both."""
    out = ()
    for i in tl.static_range(n):
        most = tl.full(T[0].shape, -1.0, tl.float32)
        top = most
        rest = most
        high = ()
        low = ()
        for j in tl.static_range(n):
            h, e = difference(G[i * n + j], x[j])
            more = T[i * n + j] > most
            most = tl.where(more, T[i * n + j], most)
            top = tl.where(more, h, top)
            rest = tl.where(more, e, rest)
            high = high + (h,)
            low = low + (e,)
        for j in tl.static_range(n):
            out = out + ((high[j] - top) + (low[j] - rest),)
    return out


@triton.jit
def project_backward(T, G, n: tl.constexpr, FAST: tl.constexpr):
    """The implicit derivative. Row and column potentials in G change nothing, so where they are most of it they are
    taken off, and what is left, as small as D, is worked on once more: for n > 4 by the tile, and D[0] is NaN."""
    D, x, lost = pulled(T, G, n, FAST)
    if n <= 4:
        if any_of(lost):
            again, _, _ = pulled(T, taken_off(T, G, x, n), n, FAST)
            D = chosen(lost, again, D)  # elsewhere the same bits, whatever the others of the program are
        return D
    else:
        return (tl.where(lost, float("nan"), D[0]),) + D[1:]


@triton.jit(do_not_specialize=["count"])
def backward_kernel(G_ptr, T_ptr, D_ptr, hard_ptr, count, n: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr):
    """Grid, hard: as forward_kernel's, n > 4."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = rows < count
    D = project_backward(load(T_ptr, rows, mask, n), load(G_ptr, rows, mask, n), n, FAST)
    store(D_ptr, D, rows, mask, n)
    if n > 4:
        tl.store(hard_ptr + tl.program_id(0), any_of(mask & (D[0] != D[0])).to(tl.int8))
