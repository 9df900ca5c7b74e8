"""How kernels on the streams are launched: what the operators call, with the operators' own arguments.

Sizes of tiles, and the number of slices of the channels, depend on n, C and dtype alone: a token's numbers are the same
bits in any batch.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from ..eager import birkhoff as eager_birkhoff
from ..eager import site as eager_site
from ..eager import streams as eager_streams
from . import site, site_backward
from .launch import FAST, HIP, INTERPRETED, birkhoff, finish_birkhoff, on_device_of, thread_step

LARGEST_STREAMS = 8  # more do not fit into registers: plain formulas
CHANNELS_A_SLICE = 1024
PROGRAMS = 1024  # about so many, where a sum over tokens is made in groups
REGISTERS = {} if HIP or INTERPRETED else {"maxnreg": 168}  # of the backward of a write and a read: three blocks fit
WIDE_PRECISION = "ieee" if HIP else "tf32x3"


def _flat(tensor: Tensor, trailing: int) -> Tensor:
    """(..., a, b) -> (tokens, a, b), contiguous."""
    return tensor.reshape(-1, *tensor.shape[tensor.ndim - trailing :]).contiguous()


def _wide(rows: int) -> int:
    return max(16, int(triton.next_power_of_2(rows)))


def _slices(C: int) -> int:
    return int(triton.cdiv(C, CHANNELS_A_SLICE))


def _precision(dtype: torch.dtype) -> dict[str, Any]:
    """bfloat16 products are made of two; others of three in tf32, or as they are on AMD."""
    return {"SPLIT": dtype == torch.bfloat16, "PRECISION": WIDE_PRECISION}


def _tokens_of_tile(tokens: int, usual: int) -> int:
    """How many tokens a program takes; under the interpreter as many as there are, because each call is slow."""
    return max(16, min(512, int(triton.next_power_of_2(tokens)))) if INTERPRETED else usual


def _channels_of_tile(C: int, usual: int) -> int:
    return max(16, min(usual, int(triton.next_power_of_2(C))))


def _serves(*streams: int) -> bool:
    return max(streams) <= LARGEST_STREAMS


def read(x: Tensor, pre: Tensor) -> Tensor:
    n, C = x.shape[-2:]
    if not _serves(n):
        return eager_streams.read(x, pre)
    flat, weights = _flat(x, 2), _flat(pre, 1)
    u = x.new_empty(*x.shape[:-2], C)
    if u.numel():
        TT, BC = _tokens_of_tile(len(flat), 16), _channels_of_tile(C, 128)
        grid = (triton.cdiv(len(flat), TT), triton.cdiv(C, BC))
        with on_device_of(x):
            site.plain_read_kernel[grid](flat, weights, u, len(flat), C, n=n, TT=TT, BC=BC, num_warps=4)
    return u


def read_backward(grad: Tensor, x: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    n, C = x.shape[-2:]
    if not _serves(n):
        return eager_streams.read_backward(grad, x, pre)
    du, flat, weights = _flat(grad, 1), _flat(x, 2), _flat(pre, 1)
    dx, dpre = torch.empty_like(flat), x.new_empty(pre.shape, dtype=torch.float32)
    if dx.numel():
        TT, BC = _tokens_of_tile(len(flat), 16), _channels_of_tile(C, 128)
        with on_device_of(x):
            site_backward.plain_read_backward_kernel[(triton.cdiv(len(flat), TT),)](
                du, flat, weights, dx, dpre, len(flat), C, n=n, TT=TT, BC=BC, num_warps=4
            )
    else:
        dpre.zero_()
    return dx.view(x.shape), dpre.to(pre.dtype)


class _Pass1:
    """write_project_kernel: the state, and the sums of which P and 1 / rms come."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor | None,
        written: tuple[Tensor, Tensor, Tensor] | None = None,
        carried: Tensor | None = None,
    ) -> None:
        """x, y, post, res, pre flat and contiguous; `written`: y, post, res."""
        tokens, n, C = x.shape
        rows = 1 if weight is None else len(weight)
        self.rows, self.wide, self.slices = rows, _wide(rows + 1), _slices(C)
        self.state = x if written is None else torch.empty_like(x)
        shape = (self.slices, tokens, self.wide)
        self.sums = x.new_empty(shape if weight is not None else (1,), dtype=torch.float32)
        self.u = x if carried is None else x.new_empty(tokens, C)
        y, post, res = written or (x, x, x)
        if x.numel() == 0:
            return
        narrow = n > 4 or self.wide > 32
        TT, BC = _tokens_of_tile(tokens, 16 if narrow else 32), _channels_of_tile(C, 32)
        flags: dict[str, Any] = {
            "WRITE": written is not None,
            "PROJECT": weight is not None,
            "READ": carried is not None,
        }
        with on_device_of(x):
            site.write_project_kernel[(triton.cdiv(tokens, TT), self.slices)](
                *(x, y, post, res, x if carried is None else carried, x if weight is None else weight),
                *(self.state, self.u, self.sums, tokens, C),
                **flags, **_precision(x.dtype), n=n, ROWS=rows, WIDE=self.wide, TT=TT, BC=BC,
                num_warps=4, num_stages=2 if HIP or n > 4 or x.dtype == torch.float32 else 3,
            )  # fmt: skip


def write(x: Tensor, y: Tensor, post: Tensor, res: Tensor) -> Tensor:
    if not _serves(x.shape[-2]):
        return eager_streams.write(x, y, post, res)
    made = _Pass1(_flat(x, 2), None, (_flat(y, 1), _flat(post, 1), _flat(res, 2)))
    return made.state.view(x.shape)


def write_backward(
    grad: Tensor, x: Tensor, y: Tensor, post: Tensor, res: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, C = x.shape[-2:]
    if not _serves(n):
        return eager_streams.write_backward(grad, x, y, post, res)
    flat, branch = _flat(x, 2), _flat(y, 1)
    dx, dy = torch.empty_like(flat), torch.empty_like(branch)
    tokens, wide = len(flat), _wide(n + n * n)
    sums = x.new_zeros((_slices(C), tokens, wide), dtype=torch.float32) if C == 0 else None
    if sums is None:
        sums = x.new_empty((_slices(C), tokens, wide), dtype=torch.float32)
    if dx.numel():
        TT, BC = _tokens_of_tile(tokens, 16), _channels_of_tile(C, 64 if n <= 4 else 16)
        with on_device_of(x):
            site_backward.write_backward_kernel[(triton.cdiv(tokens, TT), _slices(C))](
                *(_flat(grad, 2), flat, branch, _flat(post, 1), _flat(res, 2), dx, dy, sums, tokens, C),
                n=n, WIDE=wide, TT=TT, BC=BC, num_warps=4,
            )  # fmt: skip
    dpost, dres = _of_sums(sums, n)
    return dx.view(x.shape), dy.view(y.shape), dpost.to(post.dtype).view(post.shape), dres.to(res.dtype).view(res.shape)


def _of_sums(sums: Tensor, n: int) -> tuple[Tensor, Tensor]:
    total = sums.sum(0) if len(sums) != 1 else sums[0]
    return total[:, :n].contiguous(), total[:, n : n + n * n].contiguous()


class _Pass2:
    """read_kernel: P, 1 / rms, and what `logits` asks for."""

    def __init__(
        self,
        made: _Pass1,
        norm_eps: float,
        logits: tuple[Any, ...] | None = None,
        *,
        reads: bool = True,
        tol: float | None = None,
        mixing: int = 0,
        sinkhorn: tuple[int, int, bool, float] = (0, 0, False, 0.0),
    ) -> None:
        """logits: gate, bias, mix_gate, read, write, read_eps, write_multiplier, write_eps. sinkhorn: rounds, start,
        columns_last, eps."""
        state = made.state
        tokens, n, C = state.shape
        new = lambda *shape: state.new_empty(shape, dtype=torch.float32)  # noqa: E731
        self.P, self.r = new(tokens, made.rows), new(tokens)
        gate, bias, mix_gate, read, write, read_eps, multiplier, write_eps = logits or (
            made.sums,
            made.sums,
            0.0,
            0,
            0,
            0.0,
            1.0,
            0.0,
        )
        wanted = logits is not None
        self.u = state.new_empty(tokens, C) if wanted and reads else state
        self.pre = new(tokens, n) if wanted and not reads else self.r
        self.post = new(tokens, n) if wanted else self.r
        self.mix = new(tokens, made.rows - 2 * n) if wanted else self.r
        self.res = new(tokens, n, n) if mixing else self.r
        if tokens == 0 or C == 0:
            return
        TT, BC = _tokens_of_tile(tokens, 16), _channels_of_tile(C, 128)
        tiles = triton.cdiv(tokens, TT)
        hard = torch.empty(tiles, dtype=torch.int8, device=state.device)
        small = eager_birkhoff.last_step(tol, n, torch.float32)
        rounds, start, columns_last, sinkhorn_eps = sinkhorn
        with on_device_of(state):
            site.read_kernel[(tiles,)](
                *(state, made.sums, gate, bias, self.u, self.pre, self.post, self.mix, self.res, hard, self.P, self.r),
                *(tokens, C, made.slices, mix_gate, norm_eps, read_eps, multiplier, write_eps, thread_step(small)),
                *(rounds, sinkhorn_eps),
                n=n, ROWS=made.rows, WIDE=made.wide, GATES=len(gate) if wanted else 3, LOGITS=wanted, READ_CODE=read,
                WRITE_CODE=write, READ=reads, MIXING=mixing, START=start, COLUMNS_LAST=columns_last, TT=TT, BC=BC,
                FAST=FAST,
                num_warps=4,
            )  # fmt: skip
            if mixing == 1 and n > 2:
                finish_birkhoff(self.mix, self.res, hard, n, tokens, small, TT)


def coefficients(x: Tensor, weight: Tensor, norm_eps: float) -> tuple[Tensor, Tensor]:
    if not _serves(x.shape[-2]) or x.numel() == 0:
        return eager_site.coefficients(x, weight, norm_eps)
    lead = x.shape[:-2]
    done = _Pass2(_Pass1(_flat(x, 2), weight.contiguous()), norm_eps)
    return done.P.view(*lead, -1), done.r.view(lead)


def coefficients_backward(grad: Tensor, x: Tensor, weight: Tensor, P: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    n, C = x.shape[-2:]
    if not _serves(n) or x.numel() == 0:
        return eager_site.coefficients_backward(grad, x, weight, P, r)
    state, rows = _flat(x, 2), len(weight)
    tokens, wide = len(state), _wide(rows)
    q, a = state.new_empty((tokens, wide), dtype=torch.float32), state.new_empty(tokens, dtype=torch.float32)
    TT = _tokens_of_tile(tokens, 32)
    with on_device_of(x):
        site_backward.rows_backward_kernel[(triton.cdiv(tokens, TT),)](
            *(_flat(grad, 1), _flat(P, 1), r.reshape(-1).contiguous(), q, a, tokens, C),
            n=n, ROWS=rows, WIDE=wide, TT=TT, num_warps=4,
        )  # fmt: skip
    dx = _state_gradient(state, weight, q, a)
    return dx.view(x.shape), _weight_gradient(state, q, rows)


def _state_gradient(
    state: Tensor,
    weight: Tensor,
    q: Tensor,
    a: Tensor,
    read: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """a v + phi' q, and pre du where it was `read` with (du, pre)."""
    tokens, n, C = state.shape
    g = torch.empty_like(state)
    TT, BC = _tokens_of_tile(tokens, 32), _channels_of_tile(C, 64)
    du, pre = read or (state, a)
    with on_device_of(state):
        site_backward.state_gradient_kernel[(triton.cdiv(tokens, TT), triton.cdiv(C, BC), n)](
            *(state, du, state, pre, q, a, weight.contiguous(), g, tokens, C),
            n=n, DSTATE=False, READ=read is not None, WIDE=q.shape[1], ROWS=len(weight), TT=TT, BC=BC,
            PRECISION=_through_precision(state.dtype), num_warps=4,
        )  # fmt: skip
    return g


def _through_precision(dtype: torch.dtype) -> str:
    """Of products that are rounded to the streams' type: one in tf32 has the digits of the 16-bit ones."""
    return WIDE_PRECISION if dtype == torch.float32 or HIP else "tf32"


def _weight_gradient(state: Tensor, q: Tensor, rows: int) -> Tensor:
    tokens, n, C = state.shape
    width = n * C
    TT, BC = _tokens_of_tile(tokens, 64 if q.shape[1] <= 32 else 32), _channels_of_tile(width, 64)
    blocks = triton.cdiv(width, BC)
    groups = min(triton.cdiv(tokens, TT), triton.cdiv(PROGRAMS, blocks))
    sums = state.new_empty((groups, rows, width), dtype=torch.float32)
    with on_device_of(state):
        site_backward.weight_backward_kernel[(blocks, groups)](
            *(state, q, sums, tokens, width),
            ROWS=rows, WIDE=q.shape[1], TT=TT, BC=BC, **_precision(state.dtype), num_warps=4, num_stages=2,
        )  # fmt: skip
    return sums.sum(0) if groups > 1 else sums[0]


def site_read(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *settings: Any) -> tuple[Tensor, ...]:
    if not _serves(x.shape[-2]) or x.numel() == 0:
        return eager_site.site_read(x, weight, gate, bias, *settings)
    mix_gate, norm_eps, *activations = settings
    lead = x.shape[:-2]
    done = _Pass2(_Pass1(_flat(x, 2), weight.contiguous()), norm_eps, (gate, bias, mix_gate, *activations))
    return tuple(t.view(*lead, *t.shape[1:]) for t in (done.u, done.post, done.mix, done.P, done.r))


class _LogitsBackward:
    """logits_backward_kernel: q, a, pre, and the gradients of gate and bias."""

    def __init__(
        self,
        state: Tensor,
        du: Tensor,
        dpost: Tensor,
        dmix: Tensor,
        gate: Tensor,
        bias: Tensor,
        P: Tensor,
        r: Tensor,
        mix_gate: float,
        activations: tuple[Any, ...],
        *,
        res: Tensor | None = None,
        mixing: int = 0,
        sinkhorn: tuple[int, int, bool, float] = (0, 0, False, 0.0),
        run: int = 1,
    ) -> None:
        tokens, n, C = state.shape
        rows = len(bias)
        read, write, read_eps, multiplier, _ = activations
        new = lambda *shape: state.new_empty(shape, dtype=torch.float32)  # noqa: E731
        wide = _wide(rows)
        self.q, self.a, self.pre = new(tokens, wide), new(tokens), new(tokens, n)
        TT, BC = _tokens_of_tile(tokens, 16), _channels_of_tile(C, 128)
        tiles = triton.cdiv(tokens, TT)
        sums = new(tiles, 2, wide)
        rounds, start, columns_last, sinkhorn_eps = sinkhorn
        with on_device_of(state):
            site_backward.logits_backward_kernel[(tiles,)](
                *(state, du, self.pre, dpost, dmix, P if res is None else res, self.a, P, r, gate, bias),
                *(self.pre, self.q, self.a, sums, tokens, C, mix_gate, read_eps, multiplier, rounds, run, sinkhorn_eps),
                n=n, ROWS=rows, WIDE=wide, GATES=len(gate), READ_CODE=read, WRITE_CODE=write, READ=True, MIXING=mixing,
                START=start, COLUMNS_LAST=columns_last, TT=TT, BC=BC, FAST=FAST, num_warps=4,
            )  # fmt: skip
        of_gates, self.dbias = sums.sum(0)[:, :rows].unbind(0)
        parts = of_gates.tensor_split((n, 2 * n))[: len(gate)]
        self.dgate = torch.stack([part.sum() for part in parts])


def site_read_backward(
    du: Tensor,
    dpost: Tensor,
    dmix: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    P: Tensor,
    r: Tensor,
    mix_gate: float,
    *activations: Any,
) -> tuple[Tensor, ...]:
    if not _serves(x.shape[-2]) or x.numel() == 0:
        return eager_site.site_read_backward(du, dpost, dmix, x, weight, gate, bias, P, r, mix_gate, *activations)
    state, flat_du = _flat(x, 2), _flat(du, 1)
    back = _LogitsBackward(
        state, flat_du, _flat(dpost, 1), _flat(dmix, 1), gate, bias, _flat(P, 1), r.reshape(-1).contiguous(), mix_gate,
        activations,
    )  # fmt: skip
    dx = _state_gradient(state, weight, back.q, back.a, (flat_du, back.pre))
    return dx.view(x.shape), _weight_gradient(state, back.q, len(weight)), back.dgate, back.dbias.contiguous()


def write_site_read(
    x: Tensor, y: Tensor, post: Tensor, res: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *settings: Any
) -> tuple[Tensor, ...]:
    if not _serves(x.shape[-2]) or x.numel() == 0:
        return eager_site.write_site_read(x, y, post, res, weight, gate, bias, *settings)
    mix_gate, norm_eps, *activations = settings
    lead = x.shape[:-2]
    made = _Pass1(_flat(x, 2), weight.contiguous(), (_flat(y, 1), _flat(post, 1), _flat(res, 2)))
    done = _Pass2(made, norm_eps, (gate, bias, mix_gate, *activations))
    return tuple(t.view(*lead, *t.shape[1:]) for t in (made.state, done.u, done.post, done.mix, done.P, done.r))


def write_site_read_backward(
    dstate: Tensor | None,
    du: Tensor,
    dnext_post: Tensor,
    dmix: Tensor,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    state: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    P: Tensor,
    r: Tensor,
    mix_gate: float,
    *activations: Any,
) -> tuple[Tensor, ...]:
    n, C = x.shape[-2:]
    if not _serves(n) or x.numel() == 0:
        return eager_site.write_site_read_backward(
            dstate, du, dnext_post, dmix, x, y, post, res, state, weight, gate, bias, P, r, mix_gate, *activations
        )
    before, branch, flat_du = _flat(x, 2), _flat(y, 1), _flat(du, 1)
    after = _flat(state, 2)
    back = _LogitsBackward(
        after, flat_du, _flat(dnext_post, 1), _flat(dmix, 1), gate, bias, _flat(P, 1), r.reshape(-1).contiguous(),
        mix_gate, activations,
    )  # fmt: skip
    dx, dy = torch.empty_like(before), torch.empty_like(branch)
    tokens, wide = len(before), _wide(n + n * n)
    sums = before.new_empty((_slices(C), tokens, wide), dtype=torch.float32)
    TT, BC = _tokens_of_tile(tokens, 16), _channels_of_tile(C, 64 if n <= 4 else 16)
    with on_device_of(x):
        site_backward.write_read_backward_kernel[(triton.cdiv(tokens, TT), _slices(C))](
            *(before if dstate is None else _flat(dstate, 2), flat_du, before, branch, _flat(post, 1), _flat(res, 2)),
            *(back.pre, back.q, back.a, weight.contiguous(), dx, dy, sums, back.a, tokens, C),
            n=n, DSTATE=dstate is not None, CARRIED=False, ROWS=len(weight), PHI=back.q.shape[1], WIDE=wide, TT=TT,
            BC=BC,
            PRECISION=_through_precision(x.dtype), num_warps=4, **REGISTERS,
        )  # fmt: skip
    dpost, dres = _of_sums(sums, n)
    return (
        dx.view(x.shape),
        dy.view(y.shape),
        dpost.to(post.dtype).view(post.shape),
        dres.to(res.dtype).view(res.shape),
        _weight_gradient(after, back.q, len(weight)),
        back.dgate,
        back.dbias.contiguous(),
    )


def next_site(
    x: Tensor, y: Tensor, post: Tensor, res: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    *settings, tol = arguments
    n = x.shape[-2]
    if not 2 <= n <= 4 or x.numel() == 0:  # more rows are not a part of the kernel
        state, u, next_post, mix, *_ = write_site_read(x, y, post, res, weight, gate, bias, *settings)
        return state, u, next_post, birkhoff(mix.reshape(res.shape), tol)
    mix_gate, norm_eps, *activations = settings
    lead = x.shape[:-2]
    made = _Pass1(_flat(x, 2), weight.contiguous(), (_flat(y, 1), _flat(post, 1), _flat(res, 2)))
    done = _Pass2(made, norm_eps, (gate, bias, mix_gate, *activations), tol=tol, mixing=1)
    return tuple(t.view(*lead, *t.shape[1:]) for t in (made.state, done.u, done.post, done.res))
