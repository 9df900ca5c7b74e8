"""How kernels on whole sites are launched: what the operators call, with the operators' own arguments."""

from typing import Any

import torch
import triton
from torch import Tensor

from ..eager import birkhoff as eager_birkhoff
from ..eager import mixed_site as eager_mixed
from ..eager import site as eager_site
from ..eager.mixed_site import MixingRule
from . import site, site_backward
from .launch import (
    FAST,
    FUSED,
    birkhoff,
    birkhoff_backward,
    generation,
    on_device_of,
    sinkhorn,
    sinkhorn_backward,
    thread_step,
)
from .launch_streams import (
    Pass1,
    Pass2,
    by_token,
    channels_of_tile,
    of_write,
    precision,
    rounded_precision,
    serves,
    slices_of,
    state_gradient,
    tile_of_pass1,
    tokens_of_tile,
    weight_gradient,
    wide_enough,
)

FEW_TOKENS = 64  # so many at most go from branch to branch in one launch
MIXED = range(2, 5)  # rows of a matrix that is made in the kernel of its logits
#: Of the backward of a write and a read of bfloat16 streams on sm_90: three blocks fit on a multiprocessor. Elsewhere,
#: and of other streams, the kernel would spill.
REGISTERS = {"maxnreg": 168}


def shaped(lead: torch.Size, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.view(*lead, *tensor.shape[1:]) for tensor in tensors)


# --- coefficients and read -----------------------------------------------------------------------------------------


def site_read(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *settings: Any) -> tuple[Tensor, ...]:
    if not serves(x.shape[-2]) or x.numel() == 0:
        return eager_site.site_read(x, weight, gate, bias, *settings)
    mix_gate, norm_eps, *activations = settings
    done = Pass2(Pass1(by_token(x, 2), weight), norm_eps, (gate, bias, mix_gate, *activations))
    return shaped(x.shape[:-2], done.u, done.post, done.mix, done.P, done.r)


def mixed_site_read(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *settings: Any) -> tuple[Tensor, ...]:
    of_site, rule = eager_mixed.split(settings)
    if not _mixes(x, rule):
        u, post, mix, P, r = site_read(x, weight, gate, bias, *of_site)
        return u, post, _matrix(mix, x.shape[-2], rule), P, r
    mix_gate, norm_eps, *activations = of_site
    done = Pass2(Pass1(by_token(x, 2), weight), norm_eps, (gate, bias, mix_gate, *activations), rule)
    return shaped(x.shape[:-2], done.u, done.post, done.res, done.P, done.r)


def _mixes(x: Tensor, rule: MixingRule) -> bool:
    """Whether the matrix is made in the kernel of its logits."""
    rounds, *_, transposed, _ = rule
    return x.shape[-2] in MIXED and x.numel() > 0 and (rounds > 0 or not transposed)


def _matrix(logits: Tensor, n: int, rule: MixingRule) -> Tensor:
    rounds, start, columns_last, transposed, mixing = rule
    R = logits.unflatten(-1, (n, n))
    M = sinkhorn(R, rounds, start, columns_last, mixing) if rounds else birkhoff(R, mixing or None)
    return M.mT.contiguous() if transposed else M


def _matrix_backward(grad: Tensor, M: Tensor, P: Tensor, gate: Tensor, bias: Tensor, *others: Any) -> Tensor:
    """From the gradient of a matrix to that of its logits, by a launch of its own."""
    mix_gate, rule = others
    rounds, start, columns_last, transposed, mixing = rule
    if transposed:
        grad, M = grad.mT, M.mT
    if not rounds:
        return birkhoff_backward(grad, M).flatten(-2)
    n = M.shape[-1]
    logits = (gate[2] if len(gate) > 2 else mix_gate) * P[..., 2 * n :] + bias[2 * n :]
    return sinkhorn_backward(grad, logits.unflatten(-1, (n, n)), rounds, start, columns_last, mixing).flatten(-2)


class _LogitsBackward:
    """site_backward.logits_backward_kernel: q, a, pre, and the gradients of gate and bias."""

    def __init__(
        self,
        state: Tensor,
        gradients: tuple[Tensor, Tensor, Tensor],
        parameters: tuple[Tensor, Tensor],
        saved: tuple[Tensor, Tensor],
        mix_gate: float,
        activations: tuple[Any, ...],
        projected: Tensor | None = None,
        carried: Tensor | None = None,
    ) -> None:
        """carried: the pre that read the state; gradients[0] is then of the pre that was made of it. Else:
        gradients: of u, of post, and of the mix's logits or of the matrix `projected` from them; parameters: gate,
        bias; saved: P, r."""
        tokens, n, C = state.shape
        gate, bias = (parameter.contiguous() for parameter in parameters)
        read, write, read_eps, multiplier, _ = activations
        new = lambda *shape: state.new_empty(shape, dtype=torch.float32)  # noqa: E731
        rows, wide = len(bias), wide_enough(len(bias))
        self.q, self.a = new(tokens, wide), new(tokens)
        self.pre = new(tokens, n) if carried is None else by_token(carried, 1)
        first, dpost = (by_token(gradient, 1) for gradient in gradients[:2])
        self.du = first
        dmix = by_token(gradients[2], 1 if projected is None else 2)
        P, r = by_token(saved[0], 1), by_token(saved[1], 0)
        TT = tokens_of_tile(tokens, 16)
        tiles = triton.cdiv(tokens, TT)
        sums = new(tiles, 2, wide)
        with on_device_of(state):
            site_backward.logits_backward_kernel[(tiles,)](
                *(state, first, first, dpost, dmix, P if projected is None else by_token(projected, 2), P, r),
                *(gate, bias, self.pre, self.q, self.a, sums, tokens, C, mix_gate, read_eps, multiplier),
                n=n, ROWS=rows, WIDE=wide, GATES=len(gate), READ_CODE=read, WRITE_CODE=write, READ=carried is None,
                PROJECTED=projected is not None, TT=TT, BC=channels_of_tile(C, 128), FAST=FAST, num_warps=4,
                num_stages=1, **FUSED,
            )  # fmt: skip
        of_gates, of_bias = sums.sum(0)[:, :rows].unbind(0)
        self.dgate = torch.stack([part.sum() for part in of_gates.tensor_split((n, 2 * n))[: len(gate)]])
        self.dbias = of_bias.contiguous()


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
    projected: Tensor | None = None,
) -> tuple[Tensor, ...]:
    if not serves(x.shape[-2]) or x.numel() == 0:
        return eager_site.site_read_backward(du, dpost, dmix, x, weight, gate, bias, P, r, mix_gate, *activations)
    state = by_token(x, 2)
    back = _LogitsBackward(state, (du, dpost, dmix), (gate, bias), (P, r), mix_gate, activations, projected)
    dx = state_gradient(state, weight, back.q, back.a, (back.du, back.pre))
    return dx.view(x.shape), weight_gradient(state, back.q, len(weight)), back.dgate, back.dbias


def mixed_site_read_backward(
    du: Tensor,
    dpost: Tensor,
    dres: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    matrix: Tensor,
    P: Tensor,
    r: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    others, rule = eager_mixed.split(settings)
    rest = x, weight, gate, bias, P, r, *others
    if _mixes(x, rule) and not rule[0]:
        return site_read_backward(du, dpost, dres, *rest, projected=matrix)
    dmix = _matrix_backward(dres, matrix, P, gate, bias, others[0], rule)
    return site_read_backward(du, dpost, dmix, *rest)


# --- write, coefficients and read ----------------------------------------------------------------------------------


def write_site_read(
    x: Tensor, y: Tensor, post: Tensor, res: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *settings: Any
) -> tuple[Tensor, ...]:
    if not serves(x.shape[-2]) or x.numel() == 0:
        return eager_site.write_site_read(x, y, post, res, weight, gate, bias, *settings)
    mix_gate, norm_eps, *activations = settings
    made = Pass1(by_token(x, 2), weight, (by_token(y, 1), by_token(post, 1), by_token(res, 2)))
    done = Pass2(made, norm_eps, (gate, bias, mix_gate, *activations))
    return shaped(x.shape[:-2], made.state, done.u, done.post, done.mix, done.P, done.r)


def write_mixed_site_read(
    x: Tensor, y: Tensor, post: Tensor, res: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *settings: Any
) -> tuple[Tensor, ...]:
    of_site, rule = eager_mixed.split(settings)
    if not _mixes(x, rule):
        state, u, next_post, mix, P, r = write_site_read(x, y, post, res, weight, gate, bias, *of_site)
        return state, u, next_post, _matrix(mix, x.shape[-2], rule), P, r
    mix_gate, norm_eps, *activations = of_site
    made = Pass1(by_token(x, 2), weight, (by_token(y, 1), by_token(post, 1), by_token(res, 2)))
    done = Pass2(made, norm_eps, (gate, bias, mix_gate, *activations), rule)
    return shaped(x.shape[:-2], made.state, done.u, done.post, done.res, done.P, done.r)


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
    projected: Tensor | None = None,
) -> tuple[Tensor, ...]:
    if not serves(x.shape[-2]) or x.numel() == 0:
        before = (x, y, post, res, state, weight, gate, bias, P, r)
        return eager_site.write_site_read_backward(dstate, du, dnext_post, dmix, *before, mix_gate, *activations)
    new = by_token(state, 2)
    back = _LogitsBackward(new, (du, dnext_post, dmix), (gate, bias), (P, r), mix_gate, activations, projected)
    dx, dy, dpost, dres, _ = _write_and_read_backward(dstate, back, x, y, post, res, weight, carried=False)
    dweight = weight_gradient(new, back.q, len(weight))
    return dx, dy, dpost, dres, dweight, back.dgate, back.dbias


def _write_and_read_backward(
    dstate: Tensor | None,
    back: _LogitsBackward,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    weight: Tensor,
    *,
    carried: bool,
) -> tuple[Tensor, ...]:
    """site_backward.write_read_backward_kernel: dx, dy, dpost, dres, and dpre (tokens, n) of a pre that was carried."""
    old, branch = by_token(x, 2), by_token(y, 1)
    dx, dy = torch.empty_like(old), torch.empty_like(branch)
    tokens, n, C = old.shape
    wide, slices = wide_enough(n + n * n), slices_of(C)
    sums = old.new_empty((slices, tokens, wide), dtype=torch.float32)
    of_pre = old.new_empty((slices, tokens, n) if carried else (1, 1, 1), dtype=torch.float32)
    TT, BC = tokens_of_tile(tokens, 16), channels_of_tile(C, 64 if n <= 4 else 16)
    with on_device_of(x):
        site_backward.write_read_backward_kernel[(triton.cdiv(tokens, TT), slices)](
            *(old if dstate is None else by_token(dstate, 2), back.du, old, branch),
            *(by_token(post, 1), by_token(res, 2)),
            *(back.pre, back.q, back.a, weight.contiguous(), dx, dy, sums, of_pre, tokens, C),
            n=n, DSTATE=dstate is not None, CARRIED=carried, ROWS=len(weight), PHI=back.q.shape[1], WIDE=wide, TT=TT,
            BC=BC, PRECISION=rounded_precision(x.dtype), num_warps=4, num_stages=1, **FUSED,
            **(REGISTERS if x.dtype == torch.bfloat16 and generation(x) == 9 else {}),
        )  # fmt: skip
    return dx.view(x.shape), dy.view(y.shape), *of_write(sums, post, res), of_pre.sum(0) if carried else of_pre


def write_mixed_site_read_backward(
    dstate: Tensor | None,
    du: Tensor,
    dnext_post: Tensor,
    dnext_res: Tensor,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    state: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    matrix: Tensor,
    P: Tensor,
    r: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    others, rule = eager_mixed.split(settings)
    rest = x, y, post, res, state, weight, gate, bias, P, r, *others
    if _mixes(x, rule) and not rule[0]:
        return write_site_read_backward(dstate, du, dnext_post, dnext_res, *rest, projected=matrix)
    dmix = _matrix_backward(dnext_res, matrix, P, gate, bias, others[0], rule)
    return write_site_read_backward(dstate, du, dnext_post, dmix, *rest)


# --- read weights used one site after the one that made them --------------------------------------------------------


def write_carried_site(
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    pre: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    of_site, rule = eager_mixed.split(settings)
    if not serves(x.shape[-2]) or x.numel() == 0:
        return eager_mixed.write_carried_site(x, y, post, res, pre, weight, gate, bias, *settings)
    mix_gate, norm_eps, *activations = of_site
    mixes = _mixes(x, rule)
    written = by_token(y, 1), by_token(post, 1), by_token(res, 2)
    made = Pass1(by_token(x, 2), weight, written, by_token(pre, 1))
    logits = (gate, bias, mix_gate, *activations)
    done = Pass2(made, norm_eps, logits, rule if mixes else None, reads=False)
    H = done.res if mixes else _matrix(done.mix, x.shape[-2], rule)
    return shaped(x.shape[:-2], made.state, made.u, done.pre, done.post, H, done.P, done.r)


def write_carried_site_backward(
    dstate: Tensor | None,
    du: Tensor,
    dnext_pre: Tensor,
    dnext_post: Tensor,
    dnext_res: Tensor,
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    pre: Tensor,
    state: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    matrix: Tensor,
    P: Tensor,
    r: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    others, rule = eager_mixed.split(settings)
    mix_gate, *activations = others
    n = x.shape[-2]
    if not serves(n) or x.numel() == 0:
        before = (x, y, post, res, pre, state, weight, gate, bias, matrix, P, r)
        gradients = (dstate, du, dnext_pre, dnext_post, dnext_res)
        return eager_mixed.write_carried_site_backward(*gradients, *before, *settings)
    exact = _mixes(x, rule) and not rule[0]
    dmix = dnext_res if exact else _matrix_backward(dnext_res, matrix, P, gate, bias, mix_gate, rule)
    new = by_token(state, 2)
    back = _LogitsBackward(
        *(new, (dnext_pre, dnext_post, dmix), (gate, bias), (P, r), mix_gate, tuple(activations)),
        projected=matrix if exact else None,
        carried=pre,
    )
    back.du = by_token(du, 1)
    dx, dy, dpost, dres, dpre = _write_and_read_backward(dstate, back, x, y, post, res, weight, carried=True)
    dweight = weight_gradient(new, back.q, len(weight))
    return dx, dy, dpost, dres, dpre.to(pre.dtype).view(pre.shape), dweight, back.dgate, back.dbias


# --- all that lies between two branches, where no derivative is wanted ---------------------------------------------


def next_site(
    x: Tensor, y: Tensor, post: Tensor, res: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    *settings, tol = arguments
    rule = (0, 0, False, False, tol or 0.0)
    if not _mixes(x, rule) or x.numel() // (x.shape[-2] * x.shape[-1]) > FEW_TOKENS:
        state, u, next_post, H, _, _ = write_mixed_site_read(x, y, post, res, weight, gate, bias, *settings, *rule)
        return state, u, next_post, H
    mix_gate, norm_eps, read, write, read_eps, multiplier, write_eps = settings
    old, rows = by_token(x, 2), len(weight)
    tokens, n, C = old.shape
    new = lambda *shape: old.new_empty(shape, dtype=torch.float32)  # noqa: E731
    wide, slices = wide_enough(rows + 1), slices_of(C)
    state, u, next_post, H = torch.empty_like(old), old.new_empty(tokens, C), new(tokens, n), new(tokens, n, n)
    sums, mix, P, r = new(slices, tokens, wide), new(tokens, n * n), new(tokens, rows), new(tokens)
    small = eager_birkhoff.last_step(tol, n, torch.float32)
    tile = tile_of_pass1(old, wide) | {"TT": tokens_of_tile(tokens, 16), "num_warps": 8, "num_stages": 2}
    tiles = triton.cdiv(tokens, tile["TT"])
    # made anew, not kept: what is first made while a CUDA graph warms up lies in memory that is the graph's
    counters = old.new_zeros(tiles, dtype=torch.int32)
    with on_device_of(x):
        site.next_site_kernel[(tiles, slices)](
            *(old, by_token(y, 1), by_token(post, 1), by_token(res, 2)),
            *(weight.contiguous(), gate.contiguous(), bias.contiguous(), state, sums),
            *(counters, u, next_post, mix, H, P, r, tokens, C, mix_gate, norm_eps, read_eps, multiplier),
            *(write_eps, thread_step(small), small),
            n=n, ROWS=rows, WIDE=wide, GATES=len(gate), READ_CODE=read, WRITE_CODE=write,
            READ_BC=channels_of_tile(C, 128), FAST=FAST, **tile, **precision(x.dtype),
        )  # fmt: skip
    return shaped(x.shape[:-2], state, u, next_post, H)
