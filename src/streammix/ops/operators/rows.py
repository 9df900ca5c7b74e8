"""Operator `rows_site_read`, a site whose streams make their weights of themselves, and its backward.

It is to `read` and `coefficients` of single rows what `site_read` is to those of the whole state. dim: see streams.py.
"""

from typing import Any

from torch import Tensor

from ..eager import rows as eager
from ..eager.streams import moved_back
from ..registry import Operators, define, refused
from .common import like_all
from .site import ACTIVATIONS, SAVED, given, save_arguments, through_plain_formulas, through_saved

PARAMETERS = "Tensor weight, Tensor scale, Tensor bias"


def _outputs(x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, ...]:
    dim = others[-1]
    n, batch = x.shape[dim], x.shape[:dim] + x.shape[dim + 1 : -1]
    made = (weight.new_empty(*batch, *last) for last in ((n,), (n, n), (n, n + 2), (n,)))
    return x.new_empty(*batch, x.shape[-1]), *made


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, scale, bias, _, *settings = inputs
    *_, P, r = output
    ctx.set_materialize_grads(False)
    ctx.settings = settings
    ctx.save_for_backward(x, weight, scale, bias, P, r)


def _backward(ops: Operators, ctx: Any, du: Any, dpost: Any, dmix: Any, dP: Any, dr: Any) -> Any:
    x, weight, scale, bias, P, r = ctx.saved_tensors
    *batch, n, _ = P.shape
    of_outputs = given(du, x, *batch, x.shape[-1]), given(dpost, weight, *batch, n), given(dmix, weight, *batch, n, n)
    dx, dweight, dscale, dbias = ops.rows_site_read_backward(*of_outputs, x, weight, scale, bias, P, r, *ctx.settings)
    if dP is not None or dr is not None:
        dim = ctx.settings[-1]
        more_dx, more_dweight = through_saved(ops, dP, dr, eager.single_rows(x, dim), weight, P, r)
        dx, dweight = dx + moved_back(more_dx.squeeze(-2), dim), dweight + more_dweight
    return dx, dweight, dscale, dbias, *[None] * (len(ctx.settings) + 1)


define(
    f"rows_site_read(Tensor x, {PARAMETERS}, float norm_eps, bool tanh, {ACTIVATIONS}, int dim)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    eager.rows_site_read,
    fake=_outputs,
    save=_save,
    backward=_backward,
    vmap=False,
)
define(
    f"rows_site_read_backward(Tensor du, Tensor dpost, Tensor dmix, Tensor x, {PARAMETERS}, {SAVED}, bool tanh,"
    f" {ACTIVATIONS}, int dim) -> (Tensor, Tensor, Tensor, Tensor)",
    eager.rows_site_read_backward,
    fake=lambda du, dpost, dmix, x, weight, scale, bias, *_: like_all(x, weight, scale, bias),
    save=save_arguments,
    backward=through_plain_formulas(eager.rows_site_read_backward),
    tangent=refused,
    vmap=False,
)
