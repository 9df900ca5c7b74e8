"""The backward of what lies between two branches, in three passes:

    pass 1   <du, state_j>; gradients of the logits, through the projection; q = r dP and
             a = -(r^2 / n C) <dP, P>
    pass 2   g_i = dstate_i + pre_i du + a v_i + (phi' q)_i with the state v made again, rounded as it would be stored;
             dx_j = sum_i H_ij g_i, dy = sum_i post_i g_i; <g_i, y> and <g_i, x_j> over slices of the channels
    pass 3   dphi = sum over tokens of q v'

Sums over tokens are made in groups, and the groups added up in their order: nothing is atomic.
"""

import triton
import triton.language as tl

from . import birkhoff
from .channels import activated, by_eights, column, columns, gates, slice_of, slope, zeros


@triton.jit(do_not_specialize=["tokens"])
def logits_backward_kernel(
    state_ptr, du_ptr, dpre_ptr, dpost_ptr, dmix_ptr, res_ptr, P_ptr, r_ptr, gate_ptr, bias_ptr,
    pre_ptr, q_ptr, a_ptr, sums_ptr, tokens, C, mix_gate, read_eps, write_multiplier,
    n: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, GATES: tl.constexpr, READ_CODE: tl.constexpr,
    WRITE_CODE: tl.constexpr, READ: tl.constexpr, PROJECTED: tl.constexpr, TT: tl.constexpr, BC: tl.constexpr,
    FAST: tl.constexpr,
):  # fmt: skip
    """Pass 1. Grid: tiles of TT tokens. dmix: the gradient of the mix's logits, or with PROJECTED of the matrix res
    that was projected from them. READ: of u comes du; else dpre is given. sums (tiles, 2, WIDE): this tile's part of
    dgate, by logit, and of dbias."""
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    there = t < tokens
    k = tl.arange(0, WIDE)
    known = there[:, None] & (k < ROWS)[None, :]
    P = tl.load(P_ptr + t[:, None] * ROWS + k[None, :], mask=known, other=0.0)
    gate = gates(gate_ptr, mix_gate, k, n, GATES)[None, :]
    logits = gate * P + tl.load(bias_ptr + k, mask=k < ROWS, other=0.0)[None, :]
    if READ:
        dots = zeros(n, TT, BC // 8)
        for b in range(tl.cdiv(C, BC)):
            c = b * BC + tl.arange(0, BC)
            inside = there[:, None] & (c < C)[None, :]
            at = t[:, None] * (n * C) + c[None, :]
            du = tl.load(du_ptr + t[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
            more = ()
            for j in tl.static_range(n):
                x = tl.load(state_ptr + at + j * C, mask=inside, other=0.0).to(tl.float32)
                more = more + (dots[j] + by_eights(du * x),)
            dots = more
    d = tl.zeros((TT, WIDE), tl.float32)
    for j in tl.static_range(n):
        z = column(logits, j)
        dpre = tl.sum(dots[j], 1) if READ else tl.load(dpre_ptr + t * n + j, mask=there, other=0.0)
        if READ:
            tl.store(pre_ptr + t * n + j, activated(z, READ_CODE) + read_eps, mask=there)
        d = tl.where(k[None, :] == j, (dpre * slope(z, READ_CODE))[:, None], d)
        dpost = tl.load(dpost_ptr + t * n + j, mask=there, other=0.0)
        dpost *= write_multiplier * slope(column(logits, n + j), WRITE_CODE)
        d = tl.where(k[None, :] == n + j, dpost[:, None], d)
    if not PROJECTED:
        at = t[:, None] * (ROWS - 2 * n) + (k - 2 * n)[None, :]
        d += tl.load(dmix_ptr + at, mask=known & (k >= 2 * n)[None, :], other=0.0)
    else:
        G = ()
        T = ()
        for e in tl.static_range(n * n):
            G = G + (tl.load(dmix_ptr + t * (n * n) + e, mask=there, other=0.0),)
            T = T + (tl.load(res_ptr + t * (n * n) + e, mask=there, other=0.0),)
        D = birkhoff.project_backward(T, G, n, FAST)
        for e in tl.static_range(n * n):
            d = tl.where(k[None, :] == 2 * n + e, D[e][:, None], d)
    d = tl.where(known, d, 0.0)
    r = tl.load(r_ptr + t, mask=there, other=0.0)
    dP = gate * d
    tl.store(q_ptr + t[:, None] * WIDE + k[None, :], r[:, None] * dP, mask=there[:, None])
    tl.store(a_ptr + t, -r * r / (n * C) * tl.sum(dP * P, 1), mask=there)
    tl.store(sums_ptr + tl.program_id(0) * (2 * WIDE) + k, tl.sum(d * P, 0))
    tl.store(sums_ptr + tl.program_id(0) * (2 * WIDE) + WIDE + k, tl.sum(d, 0))


@triton.jit(do_not_specialize=["tokens"])
def rows_backward_kernel(
    grad_ptr,
    P_ptr,
    r_ptr,
    q_ptr,
    a_ptr,
    tokens,
    C,
    n: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    TT: tl.constexpr,
):
    """q = r grad and a = -(r^2 / n C) <grad, P>. Grid: tiles of TT tokens."""
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    there = t < tokens
    k = tl.arange(0, WIDE)
    known = there[:, None] & (k < ROWS)[None, :]
    P = tl.load(P_ptr + t[:, None] * ROWS + k[None, :], mask=known, other=0.0)
    grad = tl.load(grad_ptr + t[:, None] * ROWS + k[None, :], mask=known, other=0.0)
    r = tl.load(r_ptr + t, mask=there, other=0.0)
    tl.store(q_ptr + t[:, None] * WIDE + k[None, :], r[:, None] * grad, mask=there[:, None])
    tl.store(a_ptr + t, -r * r / (n * C) * tl.sum(grad * P, 1), mask=there)


@triton.jit(do_not_specialize=["tokens"])
def state_gradient_kernel(
    du_ptr, state_ptr, pre_ptr, q_ptr, a_ptr, phi_ptr, g_ptr, tokens, C,
    n: tl.constexpr, READ: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    TT: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g_i = pre_i du + a v_i + (phi' q)_i where nothing was written before. Grid: tiles of TT tokens, blocks
    of BC channels, streams."""
    i = tl.program_id(2)
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    there = t < tokens
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    k = tl.arange(0, WIDE)
    of_phi = (k < ROWS)[:, None] & (c < C)[None, :]
    phi = tl.load(phi_ptr + k[:, None] * (n * C) + (i * C + c)[None, :], mask=of_phi, other=0.0)
    q = tl.load(q_ptr + t[:, None] * WIDE + k[None, :], mask=there[:, None], other=0.0)
    inside = there[:, None] & (c < C)[None, :]
    at = t[:, None] * (n * C) + (i * C + c)[None, :]
    g = tl.dot(q, phi, input_precision=PRECISION)
    a = tl.load(a_ptr + t, mask=there, other=0.0)[:, None]
    g += a * tl.load(state_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if READ:
        du = tl.load(du_ptr + t[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
        g += tl.load(pre_ptr + t * n + i, mask=there, other=0.0)[:, None] * du
    tl.store(g_ptr + at, g.to(g_ptr.dtype.element_ty), mask=inside)


@triton.jit
def store_sums(sums_ptr, of_y, of_x, t, there, tokens, n: tl.constexpr, WIDE: tl.constexpr):
    """<g_i, y> in columns i and <g_i, x_j> in columns n + i n + j of (slices, tokens, WIDE); of_x is in order of j."""
    k = tl.arange(0, WIDE)
    out = tl.zeros((t.shape[0], WIDE), tl.float32)
    for i in tl.static_range(n):
        out = tl.where(k[None, :] == i, tl.sum(of_y[i], 1)[:, None], out)
        for j in tl.static_range(n):
            out = tl.where(k[None, :] == n + i * n + j, tl.sum(of_x[j * n + i], 1)[:, None], out)
    at = (tl.program_id(1).to(tl.int64) * tokens + t)[:, None] * WIDE + k[None, :]
    tl.store(sums_ptr + at, out, mask=there[:, None])


@triton.jit(do_not_specialize=["tokens"])
def write_backward_kernel(
    g_ptr, x_ptr, y_ptr, post_ptr, res_ptr, dx_ptr, dy_ptr, sums_ptr, tokens, C,
    n: tl.constexpr, WIDE: tl.constexpr, TT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Of a write alone, whose gradient g is given. Grid: tiles of TT tokens, slices of the channels."""
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    there = t < tokens
    post = columns(post_ptr, t, there, n, triton.next_power_of_2(n))
    res = columns(res_ptr, t, there, n * n, triton.next_power_of_2(n * n))
    of_y = zeros(n, TT, BC // 8)
    of_x = zeros(n * n, TT, BC // 8)
    first, last = slice_of(C, BC)
    for b in range(first, last):
        c = b * BC + tl.arange(0, BC)
        inside = there[:, None] & (c < C)[None, :]
        at = t[:, None] * (n * C) + c[None, :]
        flat = t[:, None] * C + c[None, :]
        y = tl.load(y_ptr + flat, mask=inside, other=0.0).to(tl.float32)
        g = ()
        dy = tl.zeros((TT, BC), tl.float32)
        more_y = ()
        more_x = ()
        for i in tl.static_range(n):
            g = g + (tl.load(g_ptr + at + i * C, mask=inside, other=0.0).to(tl.float32),)
            more_y = more_y + (of_y[i] + by_eights(g[i] * y),)
            dy += post[i] * g[i]
        tl.store(dy_ptr + flat, dy.to(dy_ptr.dtype.element_ty), mask=inside)
        for j in tl.static_range(n):
            x = tl.load(x_ptr + at + j * C, mask=inside, other=0.0).to(tl.float32)
            dx = tl.zeros((TT, BC), tl.float32)
            for i in tl.static_range(n):
                dx += res[i * n + j] * g[i]
                more_x = more_x + (of_x[j * n + i] + by_eights(g[i] * x),)
            tl.store(dx_ptr + at + j * C, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        of_y = more_y
        of_x = more_x
    store_sums(sums_ptr, of_y, of_x, t, there, tokens, n, WIDE)


@triton.jit(do_not_specialize=["tokens"])
def write_read_backward_kernel(
    dstate_ptr, du_ptr, x_ptr, y_ptr, post_ptr, res_ptr, pre_ptr, q_ptr, a_ptr, phi_ptr, dx_ptr, dy_ptr, sums_ptr,
    dpre_ptr, tokens, C,
    n: tl.constexpr, DSTATE: tl.constexpr, CARRIED: tl.constexpr, ROWS: tl.constexpr, PHI: tl.constexpr,
    WIDE: tl.constexpr, TT: tl.constexpr, BC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Pass 2. Grid: tiles of TT tokens, slices of the channels. PHI, WIDE: how wide q and the sums are.

    CARRIED: the state was read by a pre that was given, whose gradient <du, v_i> goes to columns n + n^2 + i.
    """
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    there = t < tokens
    k = tl.arange(0, PHI)
    post = columns(post_ptr, t, there, n, triton.next_power_of_2(n))
    pre = columns(pre_ptr, t, there, n, triton.next_power_of_2(n))
    res = columns(res_ptr, t, there, n * n, triton.next_power_of_2(n * n))
    a = tl.load(a_ptr + t, mask=there, other=0.0)[:, None]
    q = tl.load(q_ptr + t[:, None] * PHI + k[None, :], mask=there[:, None], other=0.0)
    of_y = zeros(n, TT, BC // 8)
    of_x = zeros(n * n, TT, BC // 8)
    of_u = zeros(n if CARRIED else 1, TT, BC // 8)
    first, last = slice_of(C, BC)
    for b in range(first, last):
        c = b * BC + tl.arange(0, BC)
        inside = there[:, None] & (c < C)[None, :]
        of_phi = (k < ROWS)[:, None] & (c < C)[None, :]
        at = t[:, None] * (n * C) + c[None, :]
        flat = t[:, None] * C + c[None, :]
        # tl.dot's results go through dx's own memory, which the cache still holds when dx comes: used directly, their
        # layout spreads over all that follows, and the sums spill.
        for i in range(n):
            phi = tl.load(phi_ptr + k[:, None] * (n * C) + (i * C + c)[None, :], mask=of_phi, other=0.0)
            through = tl.dot(q, phi, input_precision=PRECISION)
            tl.store(dx_ptr + at + i * C, through.to(dx_ptr.dtype.element_ty), mask=inside)
        tl.debug_barrier()
        y = tl.load(y_ptr + flat, mask=inside, other=0.0).to(tl.float32)
        du = tl.load(du_ptr + flat, mask=inside, other=0.0).to(tl.float32)
        x = ()
        for j in tl.static_range(n):
            x = x + (tl.load(x_ptr + at + j * C, mask=inside, other=0.0).to(tl.float32),)
        g = ()
        dy = tl.zeros((TT, BC), tl.float32)
        more_y = ()
        more_x = ()
        more_u = ()
        for i in tl.static_range(n):
            s = post[i] * y
            for j in tl.static_range(n):
                s += res[i * n + j] * x[j]
            v = s.to(x_ptr.dtype.element_ty).to(tl.float32)
            h = tl.load(dx_ptr + at + i * C, mask=inside, other=0.0).to(tl.float32) + pre[i] * du + a * v
            if DSTATE:
                h += tl.load(dstate_ptr + at + i * C, mask=inside, other=0.0).to(tl.float32)
            h = h.to(x_ptr.dtype.element_ty).to(tl.float32)
            g = g + (h,)
            if CARRIED:
                more_u = more_u + (of_u[i] + by_eights(du * v),)
            more_y = more_y + (of_y[i] + by_eights(h * y),)
            dy += post[i] * h
        tl.debug_barrier()
        tl.store(dy_ptr + flat, dy.to(dy_ptr.dtype.element_ty), mask=inside)
        for j in tl.static_range(n):
            dx = tl.zeros((TT, BC), tl.float32)
            for i in tl.static_range(n):
                dx += res[i * n + j] * g[i]
                more_x = more_x + (of_x[j * n + i] + by_eights(g[i] * x[j]),)
            tl.store(dx_ptr + at + j * C, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        of_y = more_y
        of_x = more_x
        if CARRIED:
            of_u = more_u
    store_sums(sums_ptr, of_y, of_x, t, there, tokens, n, WIDE)
    if CARRIED:
        for i in tl.static_range(n):
            at = (tl.program_id(1).to(tl.int64) * tokens + t) * n + i
            tl.store(dpre_ptr + at, tl.sum(of_u[i], 1), mask=there)


@triton.jit(do_not_specialize=["tokens"])
def weight_backward_kernel(
    state_ptr, q_ptr, dphi_ptr, tokens, width,
    ROWS: tl.constexpr, WIDE: tl.constexpr, TT: tl.constexpr, BC: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Pass 3: q' v over a group of tokens, (groups, ROWS, width). Grid: blocks of BC of the width = n C columns,
    groups."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    k = tl.arange(0, WIDE)
    tiles = tl.cdiv(tokens, TT)
    each = tl.cdiv(tiles, tl.num_programs(1))
    first = tl.program_id(1) * each
    acc = tl.zeros((2 * WIDE if SPLIT else WIDE, BC), tl.float32)
    for tile in range(first, tl.minimum(first + each, tiles)):
        t = (tile * TT + tl.arange(0, TT)).to(tl.int64)
        inside = (t < tokens)[:, None] & (c < width)[None, :]
        v = tl.load(state_ptr + t[:, None] * width + c[None, :], mask=inside, other=0.0)
        q = tl.load(q_ptr + t[None, :] * WIDE + k[:, None], mask=(t < tokens)[None, :], other=0.0)
        if SPLIT:
            high = q.to(v.dtype)
            low = (q - high.to(tl.float32)).to(v.dtype)
            both = tl.reshape(tl.permute(tl.join(high, low), (2, 0, 1)), (2 * WIDE, TT))
            acc = tl.dot(both, v, acc)
        else:
            acc = tl.dot(q, v.to(tl.float32), acc, input_precision=PRECISION)
    if SPLIT:
        acc = tl.sum(tl.reshape(acc, (2, WIDE, BC)), 0)
    at = (tl.program_id(1).to(tl.int64) * ROWS + k)[:, None] * width + c[None, :]
    tl.store(dphi_ptr + at, acc, mask=(k < ROWS)[:, None] & (c < width)[None, :])


@triton.jit(do_not_specialize=["tokens"])
def plain_read_backward_kernel(
    du_ptr, x_ptr, pre_ptr, dx_ptr, dpre_ptr, tokens, C, n: tl.constexpr, TT: tl.constexpr, BC: tl.constexpr
):
    """dx_j = pre_j du, dpre_j = <du, x_j>. Grid: tiles of TT tokens."""
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    there = t < tokens
    pre = columns(pre_ptr, t, there, n, triton.next_power_of_2(n))
    dots = zeros(n, TT, BC // 8)
    for b in range(tl.cdiv(C, BC)):
        c = b * BC + tl.arange(0, BC)
        inside = there[:, None] & (c < C)[None, :]
        at = t[:, None] * (n * C) + c[None, :]
        du = tl.load(du_ptr + t[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
        more = ()
        for j in tl.static_range(n):
            x = tl.load(x_ptr + at + j * C, mask=inside, other=0.0).to(tl.float32)
            more = more + (dots[j] + by_eights(du * x),)
            tl.store(dx_ptr + at + j * C, (pre[j] * du).to(dx_ptr.dtype.element_ty), mask=inside)
        dots = more
    for j in tl.static_range(n):
        tl.store(dpre_ptr + t * n + j, tl.sum(dots[j], 1), mask=there)
