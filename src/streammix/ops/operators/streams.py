"""Operators `read`, `write` and their backwards. Both are multilinear: every further derivative is one of the four.

dim says where the streams are in a state, counted from its end: -2, next to the channels, or further ahead, where they
stand before some of the tokens' dimensions, (..., n, tokens, C). Everything else has its tokens' dimensions together.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..eager import streams as eager
from ..registry import Operators, define
from .common import like_all


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.dim = inputs
    ctx.save_for_backward(*tensors)


def _read_backward(ops: Operators, ctx: Any, grad: Tensor) -> Any:
    x, pre = ctx.saved_tensors
    return *ops.read_backward(grad, x, pre, ctx.dim), None


def _read_double_backward(ops: Operators, ctx: Any, ddx: Tensor, ddpre: Tensor) -> Any:
    """<ddx, pre grad> + <ddpre, x grad>: bilinear in (x, pre) with the roles of the two exchanged."""
    grad, x, pre = ctx.saved_tensors
    dx, dpre = ops.read_backward(grad, ddx, ddpre, ctx.dim)
    return ops.read(ddx, pre, ctx.dim) + ops.read(x, ddpre, ctx.dim), dx, dpre, None


def _read_tangent(ops: Operators, inputs: tuple[Any, ...], u: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    (x, pre, dim), (dx, dpre, _) = inputs, tangents
    return ops.read(dx, pre, dim) + ops.read(x, dpre, dim)


def _both_tangents(backward: Callable[..., tuple[Tensor, ...]], inputs: Any, tangents: Any) -> tuple[Tensor, ...]:
    """Of an operator that is linear in the gradient and in all else together."""
    (grad, *others, dim), (dgrad, *along, _) = inputs, tangents
    return tuple(a + b for a, b in zip(backward(dgrad, *others, dim), backward(grad, *along, dim)))


def _without_streams(x: Tensor, pre: Tensor, dim: int) -> Tensor:
    return x.new_empty(*x.shape[:dim], *x.shape[dim + 1 :])


define(
    "read(Tensor x, Tensor pre, int dim) -> Tensor",
    eager.read,
    fake=_without_streams,
    save=_save,
    backward=_read_backward,
    tangent=_read_tangent,
)
define(
    "read_backward(Tensor grad, Tensor x, Tensor pre, int dim) -> (Tensor, Tensor)",
    eager.read_backward,
    fake=lambda grad, x, pre, dim: like_all(x, pre),
    save=_save,
    backward=_read_double_backward,
    tangent=lambda ops, inputs, output, tangents: _both_tangents(ops.read_backward, inputs, tangents),
)


def _write_backward(ops: Operators, ctx: Any, grad: Tensor) -> Any:
    x, y, post, res = ctx.saved_tensors
    return *ops.write_backward(grad, x, y, post, res, ctx.dim), None


def _write_double_backward(ops: Operators, ctx: Any, ddx: Tensor, ddy: Tensor, ddpost: Tensor, ddres: Tensor) -> Any:
    grad, x, y, post, res = ctx.saved_tensors
    dgrad = ops.write(ddx, ddy, post, res, ctx.dim) + ops.write(x, y, ddpost, ddres, ctx.dim)
    return dgrad, *ops.write_backward(grad, ddx, ddy, ddpost, ddres, ctx.dim), None


def _write_tangent(ops: Operators, inputs: tuple[Any, ...], out: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    (x, y, post, res, dim), (dx, dy, dpost, dres, _) = inputs, tangents
    return ops.write(dx, dy, post, res, dim) + ops.write(x, y, dpost, dres, dim)


define(
    "write(Tensor x, Tensor y, Tensor post, Tensor res, int dim) -> Tensor",
    eager.write,
    fake=lambda x, y, post, res, dim: like_all(x)[0],
    save=_save,
    backward=_write_backward,
    tangent=_write_tangent,
)
define(
    "write_backward(Tensor grad, Tensor x, Tensor y, Tensor post, Tensor res, int dim)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    eager.write_backward,
    fake=lambda grad, x, y, post, res, dim: like_all(x, y, post, res),
    save=_save,
    backward=_write_double_backward,
    tangent=lambda ops, inputs, output, tangents: _both_tangents(ops.write_backward, inputs, tangents),
)
