"""Matrices in registers, one a thread: a tuple of n*n tensors of BLOCK numbers, which with one warp a program are one
register each. Loops over entries are unrolled, so that every index is a constant."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def reciprocal(x, FAST: tl.constexpr):
    """1 / x. FAST, on NVIDIA: one instruction, good to 1 ulp; `/` guards the ends of the range, which takes eight."""
    if FAST:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def rounded_product(x, y, FAST: tl.constexpr):
    """x y, never part of a fused multiply and add: where two copies of a formula must give the same bits."""
    if FAST:
        return tl.inline_asm_elementwise(
            "mul.rn.f32 $0, $1, $2;", "=r,r,r", [x, y], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.where(y == 0.0, 0.0, x * y)  # what a comparison stands between is not fused


@triton.jit
def load(ptr, rows, mask, n: tl.constexpr):
    """n*n tensors from (count, n, n). Where four numbers are a multiple of a row's alignment they come in one access of
    16 bytes and are split in registers; no layout conversion follows."""
    M = ()
    size: tl.constexpr = n * n
    if size % 4 == 0:
        for q in tl.static_range(size // 4):
            at = rows[:, None] * size + (q * 4 + tl.arange(0, 4))[None, :]
            four = tl.load(ptr + at, mask=mask[:, None], other=0.0)
            even, odd = tl.split(tl.reshape(four, (four.shape[0], 2, 2)))
            a, c = tl.split(even)
            b, d = tl.split(odd)
            M = M + (a, b, c, d)
    else:
        for e in tl.static_range(size):
            M = M + (tl.load(ptr + rows * size + e, mask=mask, other=0.0),)
    return M


@triton.jit
def store(ptr, M, rows, mask, n: tl.constexpr):
    size: tl.constexpr = n * n
    if size % 4 == 0:
        for q in tl.static_range(size // 4):
            even, odd = tl.join(M[4 * q], M[4 * q + 2]), tl.join(M[4 * q + 1], M[4 * q + 3])
            four = tl.reshape(tl.join(even, odd), (M[0].shape[0], 4))
            at = rows[:, None] * size + (q * 4 + tl.arange(0, 4))[None, :]
            tl.store(ptr + at, four, mask=mask[:, None])
    else:
        for e in tl.static_range(size):
            tl.store(ptr + rows * size + e, M[e], mask=mask)


@triton.jit
def row_sum(M, i: tl.constexpr, n: tl.constexpr):
    s = M[i * n]
    for j in tl.static_range(1, n):
        s += M[i * n + j]
    return s


@triton.jit
def rows_normalised(M, n: tl.constexpr, FAST: tl.constexpr):
    out = ()
    for i in tl.static_range(n):
        r = reciprocal(row_sum(M, i, n), FAST)
        for j in tl.static_range(n):
            out = out + (M[i * n + j] * r,)
    return out


@triton.jit
def chosen(where, A, B):
    """A where `where`, else B, entry by entry."""
    out = ()
    for e in tl.static_range(len(A)):
        out = out + (tl.where(where, A[e], B[e]),)
    return out


@triton.jit
def any_of(where):
    return tl.max(where.to(tl.int32), 0) != 0


@triton.constexpr_function
def edge(j, k, m):
    """The place of edge jk, j < k, among those of m nodes, in order of j, then k."""
    return j * m - j * (j + 1) // 2 + k - j - 1


@triton.jit
def eliminated(w, g, m: tl.constexpr, GUARD: tl.constexpr, FAST: tl.constexpr):
    """The first of m nodes taken out of a graph with flows (see `solve`): its pivot, its own part of x, its shares, and
    the weights and flows of what is left. Edges are in the order of `edge`."""
    s = w[0]
    b = g[0]
    for k in tl.static_range(1, m - 1):
        s += w[k]
        b += g[k]
    r = reciprocal(s, FAST)
    if GUARD:
        r = tl.where(s < 1e-35, 0.0, r)
    share = ()
    for k in tl.static_range(m - 1):
        share = share + (w[k] * r,)
    left_w = ()
    left_g = ()
    for j in tl.static_range(m - 1):
        for k in tl.static_range(j + 1, m - 1):
            left_w = left_w + (w[edge(j + 1, k + 1, m)] + w[j] * share[k],)
            left_g = left_g + ((g[edge(j + 1, k + 1, m)] + g[k] * share[j]) - g[j] * share[k],)
    return s, b * r, share, left_w, left_g


@triton.jit
def solve(w, g, n: tl.constexpr, GUARD: tl.constexpr, FAST: tl.constexpr):
    """x with sum_k w_jk (x_j - x_k) = sum_k g_jk and x = 0 at the last node, and the least pivot; as eager/flows.py.
    GUARD: a node connected to no later one has x = 0, instead of what is not finite.

    s = sum_k>p w_pk,  w_jk += w_pj w_pk / s,  g_jk += (g_pk w_pj - g_pj w_pk) / s        p = 0 .. n-2;  j, k > p
    x_p = (sum_k>p g_pk + sum_k>p w_pk x_k) / s                                           p = n-2 .. 0
    """
    own = ()
    shares = ()
    least, x, f, w, g = eliminated(w, g, n, GUARD, FAST)
    own = own + (x,)
    shares = shares + (f,)
    for p in tl.static_range(1, n - 1):
        s, x, f, w, g = eliminated(w, g, n - p, GUARD, FAST)
        least = tl.minimum(least, s)
        own = own + (x,)
        shares = shares + (f,)
    out = (tl.full(least.shape, 0.0, tl.float32),)
    for q in tl.static_range(n - 1):
        s = own[n - 2 - q]
        for k in tl.static_range(q):  # the last node's x is zero
            s += shares[n - 2 - q][k] * out[k]
        out = (s,) + out
    return out, least
