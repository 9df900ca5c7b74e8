"""Operators of a whole site: `coefficients`, `site_read`, `write_site_read`, their backward passes, and `next_site`.

They exist beside `read` and `write` because the state is best passed over once: each serves what a site, or the end of
one and the beginning of the next, does between two branches. Their parameters have no batch dimensions, so they take no
part in vmap; layers use the plain formulas there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..eager import birkhoff
from ..eager import site as eager
from ..registry import Operators, define, refused
from .common import like_all

ACTIVATION_CODES = {"linear": 0, "sigmoid": 1, "twice-sigmoid": 2}

PARAMETERS = "Tensor weight, Tensor gate, Tensor bias"
SAVED = "Tensor projected, Tensor inverse_rms"
ACTIVATIONS = "int read, int write, float read_eps, float write_multiplier, float write_eps"
SETTINGS = f"float mix_gate, float norm_eps, {ACTIVATIONS}"


def through_plain_formulas(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Second derivatives, by differentiating the plain backward pass."""

    def backward(ops: Operators, ctx: Any, *grads: Tensor | None) -> Any:
        inputs = iter(ctx.saved_tensors)
        arguments: list[Any] = [next(inputs) if tensor else argument for tensor, argument in ctx.arguments]
        places = [i for i, argument in enumerate(arguments) if isinstance(argument, Tensor)]

        def of_tensors(*tensors: Tensor) -> Any:
            filled = list(arguments)
            for i, tensor in zip(places, tensors):
                filled[i] = tensor
            return plain(*filled)

        outputs, pull = torch.func.vjp(of_tensors, *(arguments[i] for i in places))[:2]
        pulled = pull(tuple(torch.zeros_like(o) if g is None else g for g, o in zip(grads, outputs)))
        result: list[Tensor | None] = [None] * len(arguments)
        for i, tensor in zip(places, pulled):
            result[i] = tensor
        return tuple(result)

    return backward


def save_arguments(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*(i for i in inputs if isinstance(i, Tensor)))
    ctx.arguments = [(True, None) if isinstance(i, Tensor) else (False, i) for i in inputs]


def rows(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Empty P and r."""
    return weight.new_empty(*x.shape[:-2], weight.shape[0]), weight.new_empty(x.shape[:-2])


def given(grad: Tensor | None, *like: Any) -> Tensor:
    """The gradient, or zeros of the shape and kind that the first of `like` makes with the sizes after it."""
    tensor, *sizes = like
    return tensor.new_zeros(sizes) if grad is None else grad


def through_saved(
    ops: Operators, dP: Tensor | None, dr: Tensor | None, x: Tensor, weight: Tensor, P: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    """dx and dweight from gradients of P and r, which are outputs for the backward pass only: a second derivative sends
    gradients there.   dr/dv = -r^3 v / (n C)"""
    dx, dweight = ops.coefficients_backward(given(dP, P, *P.shape), x, weight, P, r)
    if dr is not None:
        factor = -r.pow(3) * dr / weight.shape[-1]
        dx = dx + (factor[..., None, None] * x.to(weight.dtype)).to(x.dtype)
    return dx, dweight


# --- coefficients -----------------------------------------------------------------------------------------------


def _save_coefficients(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, *output)


def _coefficients_backward(ops: Operators, ctx: Any, dP: Tensor | None, dr: Tensor | None) -> Any:
    return *through_saved(ops, dP, dr, *ctx.saved_tensors), None


define(
    "coefficients(Tensor x, Tensor weight, float norm_eps) -> (Tensor, Tensor)",
    eager.coefficients,
    fake=lambda x, weight, norm_eps: rows(x, weight),
    save=_save_coefficients,
    backward=_coefficients_backward,
    vmap=False,
)
define(
    f"coefficients_backward(Tensor grad, Tensor x, Tensor weight, {SAVED}) -> (Tensor, Tensor)",
    eager.coefficients_backward,
    fake=lambda grad, x, weight, projected, inverse_rms: like_all(x, weight),
    save=save_arguments,
    backward=through_plain_formulas(eager.coefficients_backward),
    tangent=refused,
    vmap=False,
)


# --- coefficients and read --------------------------------------------------------------------------------------


def _read_outputs(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    n, lead = x.shape[-2], x.shape[:-2]
    post, mix = weight.new_empty(*lead, n), weight.new_empty(*lead, weight.shape[0] - 2 * n)
    return x.new_empty(*lead, x.shape[-1]), post, mix, *rows(x, weight)


def _save_site_read(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, gate, bias, mix_gate, _, *activations = inputs
    *_, projected, inverse_rms = output
    ctx.set_materialize_grads(False)
    ctx.activations = (mix_gate, *activations)
    ctx.save_for_backward(x, weight, gate, bias, projected, inverse_rms)


def _read_gradients(x: Tensor, weight: Tensor, du: Any, dpost: Any, dmix: Any) -> tuple[Tensor, Tensor, Tensor]:
    *lead, n, C = x.shape
    return (
        given(du, x, *lead, C),
        given(dpost, weight, *lead, n),
        given(dmix, weight, *lead, weight.shape[0] - 2 * n),
    )


def _site_read_backward(ops: Operators, ctx: Any, du: Any, dpost: Any, dmix: Any, dP: Any, dr: Any) -> Any:
    x, weight, gate, bias, P, r = ctx.saved_tensors
    of_outputs = _read_gradients(x, weight, du, dpost, dmix)
    dx, dweight, dgate, dbias = ops.site_read_backward(*of_outputs, x, weight, gate, bias, P, r, *ctx.activations)
    if dP is not None or dr is not None:
        more_dx, more_dweight = through_saved(ops, dP, dr, x, weight, P, r)
        dx, dweight = dx + more_dx, dweight + more_dweight
    return dx, dweight, dgate, dbias, *[None] * (len(ctx.activations) + 1)


define(
    f"site_read(Tensor x, {PARAMETERS}, {SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.site_read,
    fake=lambda x, weight, *_: _read_outputs(x, weight),
    save=_save_site_read,
    backward=_site_read_backward,
    vmap=False,
)
define(
    f"site_read_backward(Tensor du, Tensor dpost, Tensor dmix, Tensor x, {PARAMETERS}, {SAVED},"
    f" float mix_gate, {ACTIVATIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
    eager.site_read_backward,
    fake=lambda du, dpost, dmix, x, weight, gate, bias, *_: like_all(x, weight, gate, bias),
    save=save_arguments,
    backward=through_plain_formulas(eager.site_read_backward),
    tangent=refused,
    vmap=False,
)


# --- write, coefficients and read -------------------------------------------------------------------------------


def _save_write_site_read(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, y, post, res, weight, gate, bias, mix_gate, _, *activations = inputs
    state, *_, projected, inverse_rms = output
    ctx.set_materialize_grads(False)
    ctx.activations = (mix_gate, *activations)
    ctx.save_for_backward(x, y, post, res, state, weight, gate, bias, projected, inverse_rms)


def _write_site_read_backward(
    ops: Operators, ctx: Any, dstate: Any, du: Any, dpost: Any, dmix: Any, dP: Any, dr: Any
) -> Any:
    *before, state, weight, gate, bias, P, r = ctx.saved_tensors
    more_dweight: Any = None
    if dP is not None or dr is not None:
        more_dstate, more_dweight = through_saved(ops, dP, dr, state, weight, P, r)
        dstate = more_dstate if dstate is None else dstate + more_dstate
    of_outputs = _read_gradients(state, weight, du, dpost, dmix)
    *grads, dweight, dgate, dbias = ops.write_site_read_backward(
        dstate, *of_outputs, *before, state, weight, gate, bias, P, r, *ctx.activations
    )
    dweight = dweight if more_dweight is None else dweight + more_dweight
    return *grads, dweight, dgate, dbias, *[None] * (len(ctx.activations) + 1)


define(
    f"write_site_read(Tensor x, Tensor y, Tensor post, Tensor res, {PARAMETERS}, {SETTINGS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.write_site_read,
    fake=lambda x, y, post, res, weight, *_: (*like_all(x), *_read_outputs(x, weight)),
    save=_save_write_site_read,
    backward=_write_site_read_backward,
    vmap=False,
)
define(
    "write_site_read_backward(Tensor? dstate, Tensor du, Tensor dnext_post, Tensor dmix, Tensor x, Tensor y,"
    f" Tensor post, Tensor res, Tensor state, {PARAMETERS}, {SAVED}, float mix_gate, {ACTIVATIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.write_site_read_backward,
    fake=lambda dstate, du, dnext_post, dmix, x, y, post, res, state, weight, gate, bias, *_: like_all(
        x, y, post, res, weight, gate, bias
    ),
    save=save_arguments,
    backward=through_plain_formulas(eager.write_site_read_backward),
    tangent=refused,
    vmap=False,
)


# --- all that lies between two branches, where no derivative is wanted ------------------------------------------

# For one token an operator's call costs as much as its work: this is the write of a site, the coefficients and read of
# the next and the projection of its mixing matrix in one call, and it leaves out what only a backward pass needs.


def _next_site(x: Tensor, y: Tensor, post: Tensor, res: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *of_site, tol = arguments
    state, u, post, mix, *_ = eager.write_site_read(x, y, post, res, *of_site)
    return state, u, post, birkhoff.birkhoff(mix.reshape(res.shape), tol)


def _next_outputs(x: Tensor, y: Tensor, post: Tensor, res: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    return like_all(x, y, post, res)


def _no_backward(ops: Operators, ctx: Any, *grads: Tensor) -> Any:
    raise RuntimeError("streammix::next_site has no derivative; use write_site_read and birkhoff")


define(
    f"next_site(Tensor x, Tensor y, Tensor post, Tensor res, {PARAMETERS}, {SETTINGS}, float? tol)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _next_site,
    fake=_next_outputs,
    save=lambda ctx, inputs, output: None,
    backward=_no_backward,
    tangent=refused,
    vmap=False,
)
