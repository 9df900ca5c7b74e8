"""Operators `read`, `write` and their backwards. Both are multilinear: every further derivative is one of the four."""

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from .eager import streams as eager
from .registry import define


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _empty(*like: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in like)


def _read_backward(ops: SimpleNamespace, ctx: Any, grad: Tensor) -> Any:
    return ops.read_backward(grad, *ctx.saved_tensors)


def _read_double_backward(ops: SimpleNamespace, ctx: Any, ddx: Tensor, ddpre: Tensor) -> Any:
    """<ddx, pre grad> + <ddpre, x grad>: bilinear in (x, pre) with the roles of the two exchanged."""
    grad, x, pre = ctx.saved_tensors
    dx, dpre = ops.read_backward(grad, ddx, ddpre)
    return ops.read(ddx, pre) + ops.read(x, ddpre), dx, dpre


define(
    "read(Tensor x, Tensor pre) -> Tensor",
    eager.read,
    fake=lambda x, pre: x.new_empty(*x.shape[:-2], x.shape[-1]),
    save=_save,
    backward=_read_backward,
)
define(
    "read_backward(Tensor grad, Tensor x, Tensor pre) -> (Tensor, Tensor)",
    eager.read_backward,
    fake=lambda grad, x, pre: _empty(x, pre),
    save=_save,
    backward=_read_double_backward,
)


def _write_backward(ops: SimpleNamespace, ctx: Any, grad: Tensor) -> Any:
    return ops.write_backward(grad, *ctx.saved_tensors)


def _write_double_backward(
    ops: SimpleNamespace, ctx: Any, ddx: Tensor, ddy: Tensor, ddpost: Tensor, ddres: Tensor
) -> Any:
    grad, x, y, post, res = ctx.saved_tensors
    dgrad = ops.write(ddx, ddy, post, res) + ops.write(x, y, ddpost, ddres)
    return dgrad, *ops.write_backward(grad, ddx, ddy, ddpost, ddres)


define(
    "write(Tensor x, Tensor y, Tensor post, Tensor res) -> Tensor",
    eager.write,
    fake=lambda x, y, post, res: _empty(x)[0],
    save=_save,
    backward=_write_backward,
)
define(
    "write_backward(Tensor grad, Tensor x, Tensor y, Tensor post, Tensor res) -> (Tensor, Tensor, Tensor, Tensor)",
    eager.write_backward,
    fake=lambda grad, x, y, post, res: _empty(x, y, post, res),
    save=_save,
    backward=_write_double_backward,
)
