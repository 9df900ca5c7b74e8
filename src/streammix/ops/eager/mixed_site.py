"""A site whose mixing matrix is made beside its other coefficients, in plain PyTorch: `site_read` and what follows it.

The mix is the exact projection (rounds = 0; `mixing` is its tol, 0 for none) or truncated Sinkhorn of so many rounds by
a rule (start, columns_last; `mixing` is its eps), transposed if asked.
"""

from typing import Any

from torch import Tensor

from . import birkhoff, sinkhorn, site, streams

MixingRule = tuple[int, int, bool, bool, float]  # rounds, start, columns_last, transposed, mixing


def matrix(logits: Tensor, n: int, rule: MixingRule) -> Tensor:
    """(..., n n) -> (..., n, n)"""
    rounds, start, columns_last, transposed, mixing = rule
    R = logits.unflatten(-1, (n, n))
    M = sinkhorn.sinkhorn(R, rounds, start, columns_last, mixing) if rounds else birkhoff.birkhoff(R, mixing or None)
    return M.mT.contiguous() if transposed else M


def matrix_backward(
    grad: Tensor, M: Tensor, logits: Tensor, rule: MixingRule, *, differentiable: bool = False
) -> Tensor:
    """From the gradient of M (..., n, n) to that of the logits (..., n n)."""
    rounds, start, columns_last, transposed, mixing = rule
    if transposed:
        grad, M = grad.mT, M.mT
    if not rounds:
        return birkhoff.birkhoff_backward(grad, M).flatten(-2)
    R = logits.unflatten(-1, M.shape[-2:])
    arguments = (rounds, start, columns_last, mixing)
    return sinkhorn.sinkhorn_backward(grad, R, *arguments, differentiable=differentiable).flatten(-2)


def split(settings: tuple[Any, ...]) -> tuple[tuple[Any, ...], MixingRule]:
    """The last five arguments are the rule."""
    *others, rounds, start, columns_last, transposed, mixing = settings
    return tuple(others), (rounds, start, columns_last, transposed, mixing)


def mixed_site_read(x: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *settings: Any) -> tuple[Tensor, ...]:
    """x (..., n, C) -> u (..., C), post (..., n), res (..., n, n), P (..., rows), r (...)."""
    of_site, rule = split(settings)
    u, post, mix, P, r = site.site_read(x, weight, gate, bias, *of_site)
    return u, post, matrix(mix, x.shape[-2], rule), P, r


def mixed_site_read_backward(
    du: Tensor,
    dpost: Tensor,
    dres: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor,
    bias: Tensor,
    res: Tensor,
    P: Tensor,
    r: Tensor,
    *settings: Any,
    differentiable: bool = False,
) -> tuple[Tensor, ...]:
    """-> dx, dweight, dgate, dbias."""
    activations, rule = split(settings)
    mix = site.activated(x.shape[-2], P, gate, bias, *activations)[2]
    dmix = matrix_backward(dres, res, mix, rule, differentiable=differentiable)
    return site.site_read_backward(du, dpost, dmix, x, weight, gate, bias, P, r, *activations)


def write_mixed_site_read(
    x: Tensor, y: Tensor, post: Tensor, res: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *settings: Any
) -> tuple[Tensor, ...]:
    """The write of one site and the read of the next: -> state (..., n, C), and what `mixed_site_read` makes of it."""
    state = streams.write(x, y, post, res)
    return state, *mixed_site_read(state, weight, gate, bias, *settings)


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
    next_res: Tensor,
    P: Tensor,
    r: Tensor,
    *settings: Any,
    differentiable: bool = False,
) -> tuple[Tensor, ...]:
    """-> dx, dy, dpost, dres, dweight, dgate, dbias."""
    activations, rule = split(settings)
    mix = site.activated(x.shape[-2], P, gate, bias, *activations)[2]
    dmix = matrix_backward(dnext_res, next_res, mix, rule, differentiable=differentiable)
    before = (x, y, post, res, state, weight, gate, bias, P, r)
    return site.write_site_read_backward(dstate, du, dnext_post, dmix, *before, *activations)


# --- read weights used one site after the one that made them (DeepSeek-V4.1) ----------------------------------------


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
    """The write of one site, the read of the next by the weights `pre` (..., n) that the one before it made, and the
    next's own coefficients: -> state (..., n, C), u (..., C), next pre and post (..., n), next res (..., n, n), P,
    r."""
    of_site, rule = split(settings)
    mix_gate, norm_eps, *activations = of_site
    n = x.shape[-2]
    state = streams.write(x, y, post, res)
    P, r = site.coefficients(state, weight, norm_eps)
    next_pre, next_post, mix = site.activated(n, P, gate, bias, mix_gate, *activations)
    return state, streams.read(state, pre), next_pre, next_post, matrix(mix, n, rule), P, r


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
    next_res: Tensor,
    P: Tensor,
    r: Tensor,
    *settings: Any,
    differentiable: bool = False,
) -> tuple[Tensor, ...]:
    """-> dx, dy, dpost, dres, dpre, dweight, dgate, dbias."""
    activations, rule = split(settings)
    n, v = x.shape[-2], state.to(weight.dtype)
    mix = site.activated(n, P, gate, bias, *activations)[2]
    dmix = matrix_backward(dnext_res, next_res, mix, rule, differentiable=differentiable)
    dP, dgate, dbias = site.logits_backward(n, dnext_pre, dnext_post, dmix, P, gate, bias, *activations)
    g, dweight = site.coefficients_backward(dP, v, weight, P, r)
    through_read, dpre = streams.read_backward(du.to(weight.dtype), v, pre)
    g = g + through_read
    g = g if dstate is None else g + dstate
    return *streams.write_backward(g.to(x.dtype), x, y, post, res), dpre, dweight, dgate, dbias
