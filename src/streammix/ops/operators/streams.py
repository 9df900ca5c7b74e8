"""Operators `read`, `write` and their backwards. Both are multilinear: every further derivative is one of the four."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..eager import streams as eager
from ..registry import Operators, define
from .common import like_all, save_inputs


def _read_backward(ops: Operators, ctx: Any, grad: Tensor) -> Any:
    return ops.read_backward(grad, *ctx.saved_tensors)


def _read_double_backward(ops: Operators, ctx: Any, ddx: Tensor, ddpre: Tensor) -> Any:
    """<ddx, pre grad> + <ddpre, x grad>: bilinear in (x, pre) with the roles of the two exchanged."""
    grad, x, pre = ctx.saved_tensors
    dx, dpre = ops.read_backward(grad, ddx, ddpre)
    return ops.read(ddx, pre) + ops.read(x, ddpre), dx, dpre


def _read_tangent(ops: Operators, inputs: tuple[Any, ...], u: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    (x, pre), (dx, dpre) = inputs, tangents
    return ops.read(dx, pre) + ops.read(x, dpre)


def _both_tangents(backward: Callable[..., tuple[Tensor, ...]], inputs: Any, tangents: Any) -> tuple[Tensor, ...]:
    """Of an operator that is linear in the gradient and in all else together."""
    (grad, *others), (dgrad, *along) = inputs, tangents
    return tuple(a + b for a, b in zip(backward(dgrad, *others), backward(grad, *along)))


define(
    "read(Tensor x, Tensor pre) -> Tensor",
    eager.read,
    fake=lambda x, pre: x.new_empty(*x.shape[:-2], x.shape[-1]),
    save=save_inputs,
    backward=_read_backward,
    tangent=_read_tangent,
)
define(
    "read_backward(Tensor grad, Tensor x, Tensor pre) -> (Tensor, Tensor)",
    eager.read_backward,
    fake=lambda grad, x, pre: like_all(x, pre),
    save=save_inputs,
    backward=_read_double_backward,
    tangent=lambda ops, inputs, output, tangents: _both_tangents(ops.read_backward, inputs, tangents),
)


def _write_backward(ops: Operators, ctx: Any, grad: Tensor) -> Any:
    return ops.write_backward(grad, *ctx.saved_tensors)


def _write_double_backward(ops: Operators, ctx: Any, ddx: Tensor, ddy: Tensor, ddpost: Tensor, ddres: Tensor) -> Any:
    grad, x, y, post, res = ctx.saved_tensors
    dgrad = ops.write(ddx, ddy, post, res) + ops.write(x, y, ddpost, ddres)
    return dgrad, *ops.write_backward(grad, ddx, ddy, ddpost, ddres)


def _write_tangent(ops: Operators, inputs: tuple[Any, ...], out: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    (x, y, post, res), (dx, dy, dpost, dres) = inputs, tangents
    return ops.write(dx, dy, post, res) + ops.write(x, y, dpost, dres)


define(
    "write(Tensor x, Tensor y, Tensor post, Tensor res) -> Tensor",
    eager.write,
    fake=lambda x, y, post, res: like_all(x)[0],
    save=save_inputs,
    backward=_write_backward,
    tangent=_write_tangent,
)
define(
    "write_backward(Tensor grad, Tensor x, Tensor y, Tensor post, Tensor res) -> (Tensor, Tensor, Tensor, Tensor)",
    eager.write_backward,
    fake=lambda grad, x, y, post, res: like_all(x, y, post, res),
    save=save_inputs,
    backward=_write_double_backward,
    tangent=lambda ops, inputs, output, tangents: _both_tangents(ops.write_backward, inputs, tangents),
)
