"""Operators of a site with its mixing matrix: `mixed_site_read`, `write_mixed_site_read`, `write_carried_site` and
their backward passes.

They are for backends that make the matrix where its logits are made, without a launch of its own; see ops/backend.py,
`mixes`. Elsewhere layers call the operators one by one.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..eager import mixed_site as eager
from ..registry import Operators, define, refused
from .common import like_all
from .site import (
    ACTIVATIONS,
    PARAMETERS,
    SAVED,
    SETTINGS,
    given,
    rows,
    save_arguments,
    through_plain_formulas,
    through_saved,
)

RULE = "int rounds, int start, bool columns_last, bool transposed, float mixing"


def _read_outputs(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    n, lead = x.shape[-2], x.shape[:-2]
    return (
        x.new_empty(*lead, x.shape[-1]),
        weight.new_empty(*lead, n),
        weight.new_empty(*lead, n, n),
        *rows(x, weight),
    )


def _gradients(x: Tensor, weight: Tensor, du: Any, dpost: Any, dres: Any) -> tuple[Tensor, Tensor, Tensor]:
    *lead, n, C = x.shape
    return given(du, x, *lead, C), given(dpost, weight, *lead, n), given(dres, weight, *lead, n, n)


def _save_read(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, gate, bias, mix_gate, _, *settings = inputs
    _, _, res, projected, inverse_rms = output
    ctx.set_materialize_grads(False)
    ctx.settings = (mix_gate, *settings)
    ctx.save_for_backward(x, weight, gate, bias, res, projected, inverse_rms)


def _read_backward(ops: Operators, ctx: Any, du: Any, dpost: Any, dres: Any, dP: Any, dr: Any) -> Any:
    x, weight, gate, bias, res, P, r = ctx.saved_tensors
    gradients = _gradients(x, weight, du, dpost, dres)
    dx, dweight, *others = ops.mixed_site_read_backward(*gradients, x, weight, gate, bias, res, P, r, *ctx.settings)
    if dP is not None or dr is not None:
        more_dx, more_dweight = through_saved(ops, dP, dr, x, weight, P, r)
        dx, dweight = dx + more_dx, dweight + more_dweight
    return dx, dweight, *others, *[None] * (len(ctx.settings) + 1)


define(
    f"mixed_site_read(Tensor x, {PARAMETERS}, {SETTINGS}, {RULE}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.mixed_site_read,
    fake=lambda x, weight, *_: _read_outputs(x, weight),
    save=_save_read,
    backward=_read_backward,
    vmap=False,
)
define(
    f"mixed_site_read_backward(Tensor du, Tensor dpost, Tensor dres, Tensor x, {PARAMETERS}, Tensor matrix, {SAVED},"
    f" float mix_gate, {ACTIVATIONS}, {RULE}) -> (Tensor, Tensor, Tensor, Tensor)",
    eager.mixed_site_read_backward,
    fake=lambda du, dpost, dres, x, weight, gate, bias, *_: like_all(x, weight, gate, bias),
    save=save_arguments,
    backward=through_plain_formulas(partial(eager.mixed_site_read_backward, differentiable=True)),
    tangent=refused,
    vmap=False,
)


def _save_write_read(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, y, post, res, weight, gate, bias, mix_gate, _, *settings = inputs
    state, _, _, next_res, projected, inverse_rms = output
    ctx.set_materialize_grads(False)
    ctx.settings = (mix_gate, *settings)
    ctx.save_for_backward(x, y, post, res, state, weight, gate, bias, next_res, projected, inverse_rms)


def _write_read_backward(
    ops: Operators, ctx: Any, dstate: Any, du: Any, dpost: Any, dres: Any, dP: Any, dr: Any
) -> Any:
    *before, state, weight, gate, bias, next_res, P, r = ctx.saved_tensors
    more_dweight: Any = None
    if dP is not None or dr is not None:
        more_dstate, more_dweight = through_saved(ops, dP, dr, state, weight, P, r)
        dstate = more_dstate if dstate is None else dstate + more_dstate
    gradients = _gradients(state, weight, du, dpost, dres)
    *grads, dweight, dgate, dbias = ops.write_mixed_site_read_backward(
        dstate, *gradients, *before, state, weight, gate, bias, next_res, P, r, *ctx.settings
    )
    dweight = dweight if more_dweight is None else dweight + more_dweight
    return *grads, dweight, dgate, dbias, *[None] * (len(ctx.settings) + 1)


define(
    f"write_mixed_site_read(Tensor x, Tensor y, Tensor post, Tensor res, {PARAMETERS}, {SETTINGS}, {RULE})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.write_mixed_site_read,
    fake=lambda x, y, post, res, weight, *_: (*like_all(x), *_read_outputs(x, weight)),
    save=_save_write_read,
    backward=_write_read_backward,
    vmap=False,
)
define(
    "write_mixed_site_read_backward(Tensor? dstate, Tensor du, Tensor dnext_post, Tensor dnext_res, Tensor x, Tensor y,"
    f" Tensor post, Tensor res, Tensor state, {PARAMETERS}, Tensor matrix, {SAVED}, float mix_gate, {ACTIVATIONS},"
    f" {RULE}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.write_mixed_site_read_backward,
    fake=lambda dstate, du, dnext_post, dnext_res, x, y, post, res, state, weight, gate, bias, *_: like_all(
        x, y, post, res, weight, gate, bias
    ),
    save=save_arguments,
    backward=through_plain_formulas(partial(eager.write_mixed_site_read_backward, differentiable=True)),
    tangent=refused,
    vmap=False,
)


def _carried_outputs(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    u, post, res, P, r = _read_outputs(x, weight)
    return u, torch.empty_like(post), post, res, P, r


def _save_carried(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, y, post, res, pre, weight, gate, bias, mix_gate, _, *settings = inputs
    state, _, _, _, next_res, projected, inverse_rms = output
    ctx.set_materialize_grads(False)
    ctx.settings = (mix_gate, *settings)
    ctx.save_for_backward(x, y, post, res, pre, state, weight, gate, bias, next_res, projected, inverse_rms)


def _carried_backward(
    ops: Operators, ctx: Any, dstate: Any, du: Any, dpre: Any, dpost: Any, dres: Any, dP: Any, dr: Any
) -> Any:
    *before, state, weight, gate, bias, next_res, P, r = ctx.saved_tensors
    more_dweight: Any = None
    if dP is not None or dr is not None:
        more_dstate, more_dweight = through_saved(ops, dP, dr, state, weight, P, r)
        dstate = more_dstate if dstate is None else dstate + more_dstate
    du, dpost, dres = _gradients(state, weight, du, dpost, dres)
    gradients = du, given(dpre, weight, *dpost.shape), dpost, dres
    *grads, dweight, dgate, dbias = ops.write_carried_site_backward(
        dstate, *gradients, *before, state, weight, gate, bias, next_res, P, r, *ctx.settings
    )
    dweight = dweight if more_dweight is None else dweight + more_dweight
    return *grads, dweight, dgate, dbias, *[None] * (len(ctx.settings) + 1)


define(
    f"write_carried_site(Tensor x, Tensor y, Tensor post, Tensor res, Tensor pre, {PARAMETERS}, {SETTINGS}, {RULE})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.write_carried_site,
    fake=lambda x, y, post, res, pre, weight, *_: (*like_all(x), *_carried_outputs(x, weight)),
    save=_save_carried,
    backward=_carried_backward,
    vmap=False,
)
define(
    "write_carried_site_backward(Tensor? dstate, Tensor du, Tensor dnext_pre, Tensor dnext_post, Tensor dnext_res,"
    f" Tensor x, Tensor y, Tensor post, Tensor res, Tensor pre, Tensor state, {PARAMETERS}, Tensor matrix, {SAVED},"
    f" float mix_gate, {ACTIVATIONS}, {RULE})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.write_carried_site_backward,
    fake=lambda dstate, du, dnext_pre, dnext_post, dnext_res, x, y, post, res, pre, state, weight, gate, bias, *_: (
        like_all(x, y, post, res, pre, weight, gate, bias)
    ),
    save=save_arguments,
    backward=through_plain_formulas(partial(eager.write_carried_site_backward, differentiable=True)),
    tangent=refused,
    vmap=False,
)
