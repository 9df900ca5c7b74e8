"""What lies between two branches, in two passes over the state (n streams of C channels, any of the three dtypes).

    pass 1   state = H x + post y, rounded as it is stored; its products with phi and its squares, over slices of the
             channels
    pass 2   the sums over slices; r, P, logits, pre, post, mix; u = sum_j pre_j state_j; in the last place, in
    registers,
             the projection or Sinkhorn of the mix

Partial sums are (slices, tokens, WIDE), column ROWS for the squares. The number of slices depends on C alone and
nothing
is added atomically, so a token's numbers are the same bits in any batch and any run.
"""

import triton
import triton.language as tl

from . import birkhoff, birkhoff_tile, sinkhorn
from .channels import activated, by_eights, column, columns, gates, joined, product, slice_of
from .registers import any_of


@triton.jit
def written_and_projected(
    x_ptr, y_ptr, post_ptr, res_ptr, pre_ptr, phi_ptr, out_ptr, u_ptr, sums_ptr, t, tokens, C,
    n: tl.constexpr, WRITE: tl.constexpr, PROJECT: tl.constexpr, READ: tl.constexpr, ROWS: tl.constexpr,
    WIDE: tl.constexpr, BC: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Pass 1 of the tokens t (TT,), in this program's slice of the channels, axis 1 of the grid.

    WRITE: the state is made from x and y; else it is x. PROJECT: its products and squares are wanted. READ: it is also
    read, by the pre that is given (V4.1, where a site reads with the weights of the one before it).
    """
    TT: tl.constexpr = t.shape[0]
    there = t < tokens
    k = tl.arange(0, WIDE)
    if WRITE:
        post = columns(post_ptr, t, there, n, triton.next_power_of_2(n))
        res = columns(res_ptr, t, there, n * n, triton.next_power_of_2(n * n))
    if READ:
        pre = columns(pre_ptr, t, there, n, triton.next_power_of_2(n))
    acc = tl.zeros((TT, 2 * WIDE if SPLIT else WIDE), tl.float32)
    squares = tl.zeros((TT, BC // 8), tl.float32)
    first, last = slice_of(C, BC)
    for b in range(first, last):
        c = b * BC + tl.arange(0, BC)
        inside = there[:, None] & (c < C)[None, :]
        at = t[:, None] * (n * C) + c[None, :]
        x = ()
        for j in tl.static_range(n):
            x = x + (tl.load(x_ptr + at + j * C, mask=inside, other=0.0),)
        if WRITE:
            y = tl.load(y_ptr + t[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
        if READ:
            u = tl.zeros((TT, BC), tl.float32)
        for i in tl.static_range(n):
            if WRITE:
                s = post[i] * y
                for j in tl.static_range(n):
                    s += res[i * n + j] * x[j].to(tl.float32)
                v = s.to(out_ptr.dtype.element_ty)
                tl.store(out_ptr + at + i * C, v, mask=inside)
            else:
                v = x[i]
            if READ:
                u += pre[i] * v.to(tl.float32)
            if PROJECT:
                wide = v.to(tl.float32)
                squares += by_eights(wide * wide)
                of_phi = (c < C)[:, None] & (k < ROWS)[None, :]
                w = tl.load(phi_ptr + k[None, :] * (n * C) + (i * C + c)[:, None], mask=of_phi, other=0.0)
                acc = product(v, w, acc, SPLIT, PRECISION)
        if READ:
            tl.store(u_ptr + t[:, None] * C + c[None, :], u.to(u_ptr.dtype.element_ty), mask=inside)
    if PROJECT:
        P = tl.where(k[None, :] == ROWS, tl.sum(squares, 1)[:, None], joined(acc, SPLIT))
        at = (tl.program_id(1).to(tl.int64) * tokens + t)[:, None] * WIDE + k[None, :]
        tl.store(sums_ptr + at, P, mask=there[:, None])


@triton.jit(do_not_specialize=["tokens"])
def write_project_kernel(
    x_ptr, y_ptr, post_ptr, res_ptr, pre_ptr, phi_ptr, out_ptr, u_ptr, sums_ptr, tokens, C,
    n: tl.constexpr, WRITE: tl.constexpr, PROJECT: tl.constexpr, READ: tl.constexpr, ROWS: tl.constexpr,
    WIDE: tl.constexpr, TT: tl.constexpr, BC: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Pass 1. Grid: tiles of TT tokens, slices of the channels."""
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    written_and_projected(
        x_ptr, y_ptr, post_ptr, res_ptr, pre_ptr, phi_ptr, out_ptr, u_ptr, sums_ptr, t, tokens, C,
        n, WRITE, PROJECT, READ, ROWS, WIDE, BC, SPLIT, PRECISION,
    )  # fmt: skip


@triton.jit
def rms_and_rows(
    sums_ptr, t, there, tokens, C, slices, norm_eps, n: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr
):
    """P (TT, WIDE) = phi v / rms(v) and 1 / rms(v) (TT,), rms(v) = sqrt(mean v^2 + norm_eps)."""
    k = tl.arange(0, WIDE)
    P = tl.zeros((t.shape[0], WIDE), tl.float32)
    for s in range(slices):
        at = (s * tokens + t)[:, None] * WIDE + k[None, :]
        P += tl.load(sums_ptr + at, mask=there[:, None], other=0.0)
    r = 1.0 / tl.sqrt_rn(column(P, ROWS) / (n * C) + norm_eps)
    return P * r[:, None], r


@triton.jit
def coefficients_and_read(
    state_ptr, sums_ptr, gate_ptr, bias_ptr, u_ptr, pre_ptr, post_ptr, mix_ptr, res_ptr, P_ptr, r_ptr, t, tokens,
    C, slices, mix_gate, norm_eps, read_eps, write_multiplier, write_eps, small, rounds, sinkhorn_eps,
    n: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, GATES: tl.constexpr, LOGITS: tl.constexpr,
    READ_CODE: tl.constexpr, WRITE_CODE: tl.constexpr, READ: tl.constexpr, MIXING: tl.constexpr, START: tl.constexpr,
    COLUMNS_LAST: tl.constexpr, TRANSPOSED: tl.constexpr, BC: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Pass 2 of the tokens t (TT,). -> 1 where the tile must finish some projection, else 0.

    LOGITS: logits are wanted, not P and r alone. READ: u is; else pre is stored. MIXING: 0 leaves the mix's logits, 1
    projects them, 2 is truncated Sinkhorn.
    """
    TT: tl.constexpr = t.shape[0]
    there = t < tokens
    hard = 0
    k = tl.arange(0, WIDE)
    P, r = rms_and_rows(sums_ptr, t, there, tokens, C, slices, norm_eps, n, ROWS, WIDE)
    tl.store(P_ptr + t[:, None] * ROWS + k[None, :], P, mask=there[:, None] & (k < ROWS)[None, :])
    tl.store(r_ptr + t, r, mask=there)
    if LOGITS:
        bias = tl.load(bias_ptr + k, mask=k < ROWS, other=0.0)
        logits = gates(gate_ptr, mix_gate, k, n, GATES)[None, :] * P + bias[None, :]
        mix = k[None, :] - 2 * n
        of_mix = there[:, None] & (mix >= 0) & (mix < ROWS - 2 * n)
        tl.store(mix_ptr + t[:, None] * (ROWS - 2 * n) + mix, logits, mask=of_mix)
        pre = ()
        for j in tl.static_range(n):
            pre = pre + ((activated(column(logits, j), READ_CODE) + read_eps)[:, None],)
            post = write_multiplier * activated(column(logits, n + j), WRITE_CODE) + write_eps
            tl.store(post_ptr + t * n + j, post, mask=there)
        if READ:
            for b in range(tl.cdiv(C, BC)):
                c = b * BC + tl.arange(0, BC)
                inside = there[:, None] & (c < C)[None, :]
                at = t[:, None] * (n * C) + c[None, :]
                u = tl.zeros((TT, BC), tl.float32)
                for j in tl.static_range(n):
                    u += pre[j] * tl.load(state_ptr + at + j * C, mask=inside, other=0.0).to(tl.float32)
                tl.store(u_ptr + t[:, None] * C + c[None, :], u.to(u_ptr.dtype.element_ty), mask=inside)
        else:
            for j in tl.static_range(n):
                tl.store(pre_ptr + t * n + j, tl.sum(pre[j], 1), mask=there)
        if MIXING > 0:
            R = ()
            for e in tl.static_range(n * n):
                R = R + (column(logits, 2 * n + e),)
            if MIXING == 1:
                T = birkhoff.project(R, small, n, FAST)
                if n > 2:
                    hard = any_of(there & (T[0] == birkhoff.HARD)).to(tl.int32)
            else:
                T = sinkhorn.sinkhorn(R, rounds, sinkhorn_eps, START, COLUMNS_LAST, n, FAST, False)
            for i in tl.static_range(n):
                for j in tl.static_range(n):
                    at = j * n + i if TRANSPOSED else i * n + j
                    tl.store(res_ptr + t * (n * n) + at, T[i * n + j], mask=there)
    return hard


@triton.jit(do_not_specialize=["tokens", "slices", "rounds"])
def read_kernel(
    state_ptr, sums_ptr, gate_ptr, bias_ptr, u_ptr, pre_ptr, post_ptr, mix_ptr, res_ptr, hard_ptr, P_ptr, r_ptr, tokens,
    C, slices, mix_gate, norm_eps, read_eps, write_multiplier, write_eps, small, rounds, sinkhorn_eps,
    n: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, GATES: tl.constexpr, LOGITS: tl.constexpr,
    READ_CODE: tl.constexpr, WRITE_CODE: tl.constexpr, READ: tl.constexpr, MIXING: tl.constexpr, START: tl.constexpr,
    COLUMNS_LAST: tl.constexpr, TRANSPOSED: tl.constexpr,
    TT: tl.constexpr, BC: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Pass 2. Grid: tiles of TT tokens, from the last to the first, because the end of the state is still in the cache.
    hard (tiles,): whether a tile of tokens leaves some projection to birkhoff_tile.py."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    hard = coefficients_and_read(
        state_ptr, sums_ptr, gate_ptr, bias_ptr, u_ptr, pre_ptr, post_ptr, mix_ptr, res_ptr, P_ptr, r_ptr,
        tile.to(tl.int64) * TT + tl.arange(0, TT), tokens, C, slices, mix_gate, norm_eps, read_eps, write_multiplier,
        write_eps, small, rounds, sinkhorn_eps,
        n, ROWS, WIDE, GATES, LOGITS, READ_CODE, WRITE_CODE, READ, MIXING, START, COLUMNS_LAST, TRANSPOSED, BC, FAST,
    )  # fmt: skip
    if MIXING == 1 and n > 2:
        tl.store(hard_ptr + tile, hard.to(tl.int8))


@triton.jit(do_not_specialize=["tokens"])
def next_site_kernel(
    x_ptr, y_ptr, post_ptr, res_ptr, phi_ptr, gate_ptr, bias_ptr, state_ptr, sums_ptr, counters_ptr, u_ptr,
    next_post_ptr, mix_ptr, next_res_ptr, P_ptr, r_ptr, tokens, C, mix_gate, norm_eps, read_eps, write_multiplier,
    write_eps, small,
    tile_small,
    n: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, GATES: tl.constexpr, READ_CODE: tl.constexpr,
    WRITE_CODE: tl.constexpr, TT: tl.constexpr, BC: tl.constexpr, READ_BC: tl.constexpr, SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Both passes, and what the projection leaves to the tile, in one launch: for few tokens, which take less time than
    a launch. Grid: tiles of TT tokens, slices of the channels.

    The last program of a tile to arrive does pass 2. The order in which they arrive shows in nothing: partial sums are
    in memory, and are added up in their own order. counters (tiles,): zero before.
    """
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    written_and_projected(
        x_ptr, y_ptr, post_ptr, res_ptr, x_ptr, phi_ptr, state_ptr, u_ptr, sums_ptr, t, tokens, C,
        n, True, True, False, ROWS, WIDE, BC, SPLIT, PRECISION,
    )  # fmt: skip
    tl.debug_barrier()
    arrived = tl.atomic_add(counters_ptr + tl.program_id(0), 1, sem="acq_rel", scope="gpu")
    if arrived == tl.num_programs(1) - 1:
        hard = coefficients_and_read(
            state_ptr, sums_ptr, gate_ptr, bias_ptr, u_ptr, r_ptr, next_post_ptr, mix_ptr, next_res_ptr, P_ptr, r_ptr,
            t, tokens, C, tl.num_programs(1), mix_gate, norm_eps, read_eps, write_multiplier, write_eps, small, 0, 0.0,
            n, ROWS, WIDE, GATES, True, READ_CODE, WRITE_CODE, True, 1, 0, True, False, READ_BC, FAST,
        )  # fmt: skip
        if n > 2:
            if hard != 0:
                tl.debug_barrier()
                P: tl.constexpr = triton.next_power_of_2(n)
                first = tl.program_id(0).to(tl.int64) * TT
                birkhoff_tile.forward_tile(mix_ptr, next_res_ptr, first, tokens, tile_small, n, P, TT, True)


@triton.jit(do_not_specialize=["tokens"])
def plain_read_kernel(x_ptr, pre_ptr, u_ptr, tokens, C, n: tl.constexpr, TT: tl.constexpr, BC: tl.constexpr):
    """u = sum_j pre_j x_j. Grid: tiles of TT tokens, blocks of BC channels."""
    t = tl.program_id(0).to(tl.int64) * TT + tl.arange(0, TT)
    there = t < tokens
    pre = columns(pre_ptr, t, there, n, triton.next_power_of_2(n))
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = there[:, None] & (c < C)[None, :]
    u = tl.zeros((TT, BC), tl.float32)
    for j in tl.static_range(n):
        u += pre[j] * tl.load(x_ptr + t[:, None] * (n * C) + c[None, :] + j * C, mask=inside, other=0.0).to(tl.float32)
    tl.store(u_ptr + t[:, None] * C + c[None, :], u.to(u_ptr.dtype.element_ty), mask=inside)
