"""How kernels on the streams are launched: reads, writes and coefficients, with the operators' own arguments.

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
from ..eager.mixed_site import MixingRule
from ..eager.streams import moved_back, next_to_channels
from . import site, site_backward
from .launch import FAST, FUSED, HIP, INTERPRETED, finish_birkhoff, generation, on_device_of, thread_step

LARGEST_STREAMS = 8  # more do not fit into registers: plain formulas
CHANNELS_A_SLICE = 512
PROGRAMS = 1024  # about so many, where a sum over tokens is made in groups
WIDE_PRECISION = "ieee" if HIP else "tf32x3"


def serves(n: int) -> bool:
    return n <= LARGEST_STREAMS


def by_token(tensor: Tensor, trailing: int) -> Tensor:
    """(..., a, b) -> (tokens, a, b), contiguous."""
    return tensor.reshape(-1, *tensor.shape[tensor.ndim - trailing :]).contiguous()


def wide_enough(columns: int) -> int:
    return max(16, int(triton.next_power_of_2(columns)))


def slices_of(C: int) -> int:
    return int(triton.cdiv(C, CHANNELS_A_SLICE))


def precision(dtype: torch.dtype) -> dict[str, Any]:
    """bfloat16 products are made of two; others of three in tf32, or as they are on AMD."""
    return {"SPLIT": dtype == torch.bfloat16, "PRECISION": WIDE_PRECISION}


def rounded_precision(dtype: torch.dtype) -> str:
    """Of products that are rounded to the streams' type: one in tf32 has the digits of the 16-bit ones."""
    return WIDE_PRECISION if dtype == torch.float32 or HIP else "tf32"


def tokens_of_tile(tokens: int, usual: int) -> int:
    """How many tokens a program takes; under the interpreter as many as there are, because each call is slow."""
    return max(16, min(512, int(triton.next_power_of_2(tokens)))) if INTERPRETED else usual


def channels_of_tile(C: int, usual: int) -> int:
    return max(16, min(usual, int(triton.next_power_of_2(C))))


class Pass1:
    """site.write_project_kernel: the `state`, and the `sums` of which P and 1 / rms come."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor | None,
        written: tuple[Tensor, Tensor, Tensor] | None = None,
        carried: Tensor | None = None,
    ) -> None:
        """x (tokens, n, C); written: y, post, res, if the state is not x itself; carried: the pre that reads the state
        here, if it is not made of it."""
        tokens, n, C = x.shape
        self.rows = 1 if weight is None else len(weight)
        self.wide, self.slices = wide_enough(self.rows + 1), slices_of(C)
        self.state = x if written is None else torch.empty_like(x)
        shape = (1,) if weight is None else (self.slices, tokens, self.wide)
        self.sums = x.new_empty(shape, dtype=torch.float32)
        self.u = x if carried is None else x.new_empty(tokens, C)
        if x.numel() == 0:
            return
        phi = x if weight is None else weight.contiguous()
        tile = tile_of_pass1(x, self.wide)
        with on_device_of(x):
            site.write_project_kernel[(triton.cdiv(tokens, tile["TT"]), self.slices)](
                *(x, *(written or (x, x, x)), x if carried is None else carried, phi, self.state, self.u, self.sums),
                *(tokens, C),
                n=n, WRITE=written is not None, PROJECT=weight is not None, READ=carried is not None, ROWS=self.rows,
                WIDE=self.wide, **tile, **precision(x.dtype),
            )  # fmt: skip


def tile_of_pass1(x: Tensor, wide: int) -> dict[str, Any]:
    tokens, n, C = x.shape
    small = n > 4 or wide > 32 or x.dtype != torch.bfloat16  # else registers spill
    TT = tokens_of_tile(tokens, 16 if small else 32)
    stages = 3 if generation(x) >= 9 and not small else 2
    if wide > 64:  # shared memory: of two stages it would be more than most devices have
        return {"TT": TT, "BC": channels_of_tile(C, 16), "num_warps": 8, "num_stages": 1, **FUSED}
    return {"TT": TT, "BC": channels_of_tile(C, 32), "num_warps": 4, "num_stages": stages, **FUSED}


class Pass2:
    """site.read_kernel: P, 1 / rms (r), and with `logits` u, post, the mix's logits and, by a `rule`, its matrix."""

    def __init__(
        self,
        made: Pass1,
        norm_eps: float,
        logits: tuple[Any, ...] | None = None,
        rule: MixingRule | None = None,
        reads: bool = True,
    ) -> None:
        """logits: gate, bias, mix_gate, read, write, read_eps, write_multiplier, write_eps. reads: u is made; else
        `pre`
        is kept for the next site."""
        state, rows = made.state, made.rows
        tokens, n, C = state.shape
        new = lambda *shape: state.new_empty(shape, dtype=torch.float32)  # noqa: E731
        self.P, self.r = new(tokens, rows), new(tokens)
        self.u = self.pre = self.post = self.mix = self.res = self.r  # where not wanted, anything
        gate, bias, mix_gate, read, write, read_eps, multiplier, write_eps = logits or _no_logits(self.r)
        gate, bias = gate.contiguous(), bias.contiguous()
        if logits:
            self.post, self.mix = new(tokens, n), new(tokens, rows - 2 * n)
            self.u, self.pre = (state.new_empty(tokens, C), self.r) if reads else (self.r, new(tokens, n))
        if rule:
            self.res = new(tokens, n, n)
        if state.numel() == 0:
            return
        rounds, start, columns_last, transposed, mixing = rule or (0, 0, False, False, 0.0)
        small = eager_birkhoff.last_step(None if rounds else mixing, n, torch.float32)
        TT = tokens_of_tile(tokens, 16)
        tiles = triton.cdiv(tokens, TT)
        hard = torch.empty(tiles, dtype=torch.int8, device=state.device)
        with on_device_of(state):
            site.read_kernel[(tiles,)](
                *(state, made.sums, gate, bias, self.u, self.pre, self.post, self.mix, self.res, hard, self.P, self.r),
                *(tokens, C, made.slices, mix_gate, norm_eps, read_eps, multiplier, write_eps, thread_step(small)),
                *(rounds, mixing),
                n=n, ROWS=rows, WIDE=made.wide, GATES=len(gate) if logits else 0, LOGITS=logits is not None,
                READ_CODE=read, WRITE_CODE=write, READ=reads, MIXING=0 if rule is None else 2 if rounds else 1,
                START=start, COLUMNS_LAST=columns_last, TRANSPOSED=transposed, TT=TT, BC=channels_of_tile(C, 128),
                FAST=FAST, num_warps=4, num_stages=1, **FUSED,
            )  # fmt: skip
            if rule is not None and not rounds and n > 2:
                finish_birkhoff(self.mix, self.res, hard, n, tokens, small, TT)


def _no_logits(anything: Tensor) -> tuple[Any, ...]:
    return anything, anything, 0.0, 0, 0, 0.0, 1.0, 0.0


def read(x: Tensor, pre: Tensor, dim: int = -2) -> Tensor:
    x = next_to_channels(x, dim)
    n, C = x.shape[-2:]
    if not serves(n):
        return eager_streams.read(x, pre)
    state, weights = by_token(x, 2), by_token(pre, 1)
    u = x.new_empty(*x.shape[:-2], C)
    if u.numel():
        tokens = len(state)
        TT, BC = tokens_of_tile(tokens, 16), channels_of_tile(C, 128)
        grid = (triton.cdiv(tokens, TT), triton.cdiv(C, BC))
        with on_device_of(x):
            site.plain_read_kernel[grid](
                state, weights, u, tokens, C, n=n, TT=TT, BC=BC, num_warps=4, num_stages=1, **FUSED
            )
    return u


def read_backward(grad: Tensor, x: Tensor, pre: Tensor, dim: int = -2) -> tuple[Tensor, Tensor]:
    if dim != -2:
        dx, dpre = read_backward(grad, next_to_channels(x, dim), pre)
        return moved_back(dx, dim), dpre
    n, C = x.shape[-2:]
    if not serves(n) or x.numel() == 0:
        return eager_streams.read_backward(grad, x, pre)
    state = by_token(x, 2)
    dx, dpre = torch.empty_like(state), x.new_empty(pre.shape, dtype=torch.float32)
    tokens = len(state)
    TT, BC = tokens_of_tile(tokens, 16), channels_of_tile(C, 128)
    with on_device_of(x):
        site_backward.plain_read_backward_kernel[(triton.cdiv(tokens, TT),)](
            *(by_token(grad, 1), state, by_token(pre, 1), dx, dpre, tokens, C),
            n=n,
            TT=TT,
            BC=BC,
            num_warps=4,
            num_stages=1,
            **FUSED,
        )
    return dx.view(x.shape), dpre.to(pre.dtype)


def write(x: Tensor, y: Tensor, post: Tensor, res: Tensor, dim: int = -2) -> Tensor:
    if dim != -2:
        return moved_back(write(next_to_channels(x, dim), y, post, res), dim)
    if not serves(x.shape[-2]):
        return eager_streams.write(x, y, post, res)
    made = Pass1(by_token(x, 2), None, (by_token(y, 1), by_token(post, 1), by_token(res, 2)))
    return made.state.view(x.shape)


def write_backward(
    grad: Tensor, x: Tensor, y: Tensor, post: Tensor, res: Tensor, dim: int = -2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if dim != -2:
        states = next_to_channels(grad, dim), next_to_channels(x, dim)
        dx, dy, dpost, dres = write_backward(*states, y, post, res)
        return moved_back(dx, dim), dy, dpost, dres
    n, C = x.shape[-2:]
    if not serves(n) or x.numel() == 0:
        return eager_streams.write_backward(grad, x, y, post, res)
    state, branch = by_token(x, 2), by_token(y, 1)
    dx, dy = torch.empty_like(state), torch.empty_like(branch)
    tokens, wide = len(state), wide_enough(n + n * n)
    sums = x.new_empty((slices_of(C), tokens, wide), dtype=torch.float32)
    TT, BC = tokens_of_tile(tokens, 16), channels_of_tile(C, 64 if n <= 4 else 16)
    with on_device_of(x):
        site_backward.write_backward_kernel[(triton.cdiv(tokens, TT), slices_of(C))](
            *(by_token(grad, 2), state, branch, by_token(post, 1), by_token(res, 2), dx, dy, sums, tokens, C),
            n=n, WIDE=wide, TT=TT, BC=BC, num_warps=4, num_stages=1, **FUSED,
        )  # fmt: skip
    dpost, dres = of_write(sums, post, res)
    return dx.view(x.shape), dy.view(y.shape), dpost, dres


def of_write(sums: Tensor, post: Tensor, res: Tensor) -> tuple[Tensor, Tensor]:
    """dpost and dres, of the sums of a write's backward (slices, tokens, wide)."""
    n = post.shape[-1]
    total = sums.sum(0) if len(sums) != 1 else sums[0]
    dpost, dres = total[:, :n], total[:, n : n + n * n]
    # contiguous, as their fakes are: compiled programs rely on it
    dpost, dres = dpost.to(post.dtype).contiguous(), dres.to(res.dtype).contiguous()
    return dpost.view(post.shape), dres.view(res.shape)


def coefficients(x: Tensor, weight: Tensor, norm_eps: float) -> tuple[Tensor, Tensor]:
    if not serves(x.shape[-2]) or x.numel() == 0:
        return eager_site.coefficients(x, weight, norm_eps)
    lead = x.shape[:-2]
    done = Pass2(Pass1(by_token(x, 2), weight), norm_eps)
    return done.P.view(*lead, -1), done.r.view(lead)


def coefficients_backward(grad: Tensor, x: Tensor, weight: Tensor, P: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    n, C = x.shape[-2:]
    if not serves(n) or x.numel() == 0:
        return eager_site.coefficients_backward(grad, x, weight, P, r)
    state, rows = by_token(x, 2), len(weight)
    tokens, wide = len(state), wide_enough(rows)
    q, a = state.new_empty((tokens, wide), dtype=torch.float32), state.new_empty(tokens, dtype=torch.float32)
    TT = tokens_of_tile(tokens, 32)
    with on_device_of(x):
        site_backward.rows_backward_kernel[(triton.cdiv(tokens, TT),)](
            *(by_token(grad, 1), by_token(P, 1), by_token(r, 0), q, a, tokens, C),
            n=n, ROWS=rows, WIDE=wide, TT=TT, num_warps=4, num_stages=1, **FUSED,
        )  # fmt: skip
    return state_gradient(state, weight, q, a).view(x.shape), weight_gradient(state, q, rows)


def state_gradient(
    state: Tensor, weight: Tensor, q: Tensor, a: Tensor, read: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """a v + phi' q, and pre du where the state was `read`: (du, pre)."""
    tokens, n, C = state.shape
    g = torch.empty_like(state)
    TT, BC = tokens_of_tile(tokens, 32), channels_of_tile(C, 64)
    du, pre = read or (state, a)
    with on_device_of(state):
        site_backward.state_gradient_kernel[(triton.cdiv(tokens, TT), triton.cdiv(C, BC), n)](
            *(du, state, pre, q, a, weight.contiguous(), g, tokens, C),
            n=n, READ=read is not None, WIDE=q.shape[1], ROWS=len(weight), TT=TT, BC=BC,
            PRECISION=rounded_precision(state.dtype), num_warps=4, num_stages=1, **FUSED,
        )  # fmt: skip
    return g


def weight_gradient(state: Tensor, q: Tensor, rows: int) -> Tensor:
    tokens, n, C = state.shape
    width = n * C
    TT, BC = tokens_of_tile(tokens, 64 if q.shape[1] <= 32 else 32), channels_of_tile(width, 64)
    blocks = triton.cdiv(width, BC)
    groups = min(triton.cdiv(tokens, TT), triton.cdiv(PROGRAMS, blocks))
    sums = state.new_empty((groups, rows, width), dtype=torch.float32)
    with on_device_of(state):
        site_backward.weight_backward_kernel[(blocks, groups)](
            *(state, q, sums, tokens, width),
            ROWS=rows, WIDE=q.shape[1], TT=TT, BC=BC, **precision(state.dtype), num_warps=4, **FUSED, num_stages=2,
        )  # fmt: skip
    return sums.sum(0) if groups > 1 else sums[0]
