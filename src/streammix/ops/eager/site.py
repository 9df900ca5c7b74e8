"""A site's coefficients in plain PyTorch, alone and together with the read and the write around them.

    v = vec x,   r = (mean v^2 + eps)^(-1/2),   P = r (phi v),   logits = gate o P + bias          (mHC Eq. 7)
    pre = read(logits) + read_eps,   post = write_multiplier write(logits) + write_eps,   mix = the other logits,
    u = sum_j pre_j x_j

`phi` (`weight`) has a row for each logit: n reads, n writes, then those of the mix. `gate` has a number for each of the
three groups, or two where `mix_gate` is the last. Computed in the parameters' dtype.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import streams

#: Activations by their code in the operators.
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (lambda z: z, torch.sigmoid, lambda z: 2 * z.sigmoid())
#: Their derivatives.
SLOPES: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.ones_like,
    lambda z: z.sigmoid() * (1 - z.sigmoid()),
    lambda z: 2 * z.sigmoid() * (1 - z.sigmoid()),
)


def inverse_rms(v: Tensor, norm_eps: float) -> Tensor:
    """v (..., n C) -> r (...)."""
    return torch.rsqrt(v.square().mean(-1) + norm_eps)


def coefficients(x: Tensor, weight: Tensor, norm_eps: float) -> tuple[Tensor, Tensor]:
    """x (..., n, C), weight (rows, n C) -> P (..., rows), r (...)."""
    v = x.flatten(-2).to(weight.dtype)
    r = inverse_rms(v, norm_eps)
    return F.linear(v, weight) * r.unsqueeze(-1), r


def coefficients_backward(grad: Tensor, x: Tensor, weight: Tensor, P: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """grad (..., rows) -> dx, dweight:  dv = phi' q - (r^2 / (n C)) <grad, P> v,   dphi = sum q v',   q = r grad."""
    v = x.flatten(-2).to(weight.dtype)
    q = r.unsqueeze(-1) * grad
    along = -r.square() * (grad * P).sum(-1) / v.shape[-1]
    dv = q @ weight + along.unsqueeze(-1) * v
    dweight = q.flatten(0, -2).mT @ v.flatten(0, -2) if v.ndim > 1 else torch.outer(q, v)
    return dv.unflatten(-1, x.shape[-2:]).to(x.dtype), dweight


def site_read(
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    mix_gate: float,
    norm_eps: float,
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x (..., n, C) -> u (..., C), post (..., n), mix (..., rows - 2n), P (..., rows), r (...)."""
    n = x.shape[-2]
    P, r = coefficients(x, weight, norm_eps)
    pre, post, mix = activated(n, P, gate, bias, mix_gate, read, write, read_eps, write_multiplier, write_eps)
    return streams.read(x, pre), post, mix, P, r


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
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> dx, dweight, dgate, dbias."""
    activations = (mix_gate, read, write, read_eps, write_multiplier, write_eps)
    dx, dweight, dgate, dbias = _site_read_backward(du, dpost, dmix, x, weight, gate, bias, P, r, *activations)
    return dx.to(x.dtype), dweight, dgate, dbias


def _site_read_backward(
    du: Tensor,
    dpost: Tensor,
    dmix: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    P: Tensor,
    r: Tensor,
    *activations: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with dx in the parameters' dtype: rounded once, when all of it is there."""
    n, x = x.shape[-2], x.to(weight.dtype)
    mix_gate, read, write, read_eps, write_multiplier, write_eps = activations
    pre, _, _ = activated(n, P, gate, bias, mix_gate, read, write, read_eps, write_multiplier, write_eps)
    dx, dpre = streams.read_backward(du.to(weight.dtype), x, pre)

    dP, dgate, dbias = logits_backward(n, dpre, dpost, dmix, P, gate, bias, *activations)
    dx_coefficients, dweight = coefficients_backward(dP, x, weight, P, r)
    return dx + dx_coefficients, dweight, dgate, dbias


def logits_backward(
    n: int, dpre: Tensor, dpost: Tensor, dmix: Tensor, P: Tensor, gate: Tensor, bias: Tensor, *activations: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradients of pre, post and the mix's logits: dP, dgate, dbias."""
    mix_gate, read, write, _, write_multiplier, _ = activations
    groups = _groups(n, P, gate, bias, mix_gate)
    (read_logits, write_logits, _) = (g * p + b for g, p, b in groups)
    dlogits = [dpre * SLOPES[read](read_logits), dpost * (write_multiplier * SLOPES[write](write_logits)), dmix]
    dgate = [(d * p).sum() for d, (_, p, _) in zip(dlogits, groups)]
    dP = torch.cat([g * d for d, (g, _, _) in zip(dlogits, groups)], -1)
    dbias = torch.cat(dlogits, -1).flatten(0, -2).sum(0) if P.ndim > 1 else torch.cat(dlogits, -1)
    return dP, torch.stack(dgate[: len(gate)]), dbias


def write_site_read(
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    mix_gate: float,
    norm_eps: float,
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
) -> tuple[Tensor, ...]:
    """The write of one site and the read of the next: -> state (..., n, C), and what `site_read` makes of it."""
    state = streams.write(x, y, post, res)
    settings = (mix_gate, norm_eps, read, write, read_eps, write_multiplier, write_eps)
    return state, *site_read(state, weight, gate, bias, *settings)


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
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
) -> tuple[Tensor, ...]:
    """-> dx, dy, dpost, dres, dweight, dgate, dbias. dstate: gradient of the state from beyond the next site's read."""
    activations = (mix_gate, read, write, read_eps, write_multiplier, write_eps)
    g, *parameters = _site_read_backward(du, dnext_post, dmix, state, weight, gate, bias, P, r, *activations)
    g = g if dstate is None else g + dstate
    return *streams.write_backward(g.to(x.dtype), x, y, post, res), *parameters


def activated(
    n: int,
    P: Tensor,
    gate: Tensor,
    bias: Tensor,
    mix_gate: float,
    read: int,
    write: int,
    read_eps: float,
    write_multiplier: float,
    write_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """pre (..., n), post (..., n) and the mixing logits (..., rows - 2n)."""
    pre, post, mix = (g * p + b for g, p, b in _groups(n, P, gate, bias, mix_gate))
    return ACTIVATIONS[read](pre) + read_eps, write_multiplier * ACTIVATIONS[write](post) + write_eps, mix


def _groups(n: int, P: Tensor, gate: Tensor, bias: Tensor, mix_gate: float) -> list[tuple[Any, Tensor, Tensor]]:
    """Gate, P and bias of the reads, the writes and the mix."""
    parts = P.tensor_split((n, 2 * n), -1), bias.tensor_split((n, 2 * n))
    return list(zip([*gate, mix_gate], *parts))
