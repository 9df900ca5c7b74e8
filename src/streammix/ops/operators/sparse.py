"""Operators `sparse_read`, `sparse_write` and their backwards: see eager/sparse.py for what they compute."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..eager import sparse as eager
from ..registry import Operators, define, refused
from .common import like_all, save_inputs


def _read_outputs(x: Tensor, pre: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    *batch, _, C = x.shape
    return x.new_empty(*batch, C), x.new_empty(*batch, index.shape[-1], C)


def _read_backward(ops: Operators, ctx: Any, du: Tensor, da: Tensor) -> Any:
    return *ops.sparse_read_backward(du, da, *ctx.saved_tensors), None


def _read_tangent(ops: Operators, inputs: tuple[Any, ...], outputs: Any, tangents: tuple[Any, ...]) -> Any:
    (x, pre, index), (dx, dpre, _) = inputs, tangents
    du, da = ops.sparse_read(dx, pre, index)
    return du + ops.read(x, dpre, -2), da


def _read_double_backward(ops: Operators, ctx: Any, ddx: Tensor, ddpre: Tensor) -> Any:
    *differentiable, index = ctx.saved_tensors
    pull = torch.func.vjp(partial(eager.sparse_read_backward, index=index), *differentiable)[1]
    return *pull((ddx, ddpre)), None


define(
    "sparse_read(Tensor x, Tensor pre, Tensor index) -> (Tensor, Tensor)",
    eager.sparse_read,
    fake=_read_outputs,
    save=save_inputs,
    backward=_read_backward,
    tangent=_read_tangent,
)
define(
    "sparse_read_backward(Tensor du, Tensor dactive, Tensor x, Tensor pre, Tensor index) -> (Tensor, Tensor)",
    eager.sparse_read_backward,
    fake=lambda du, da, x, pre, index: like_all(x, pre),
    save=save_inputs,
    backward=_read_double_backward,
    tangent=refused,
)


def _write_backward(ops: Operators, ctx: Any, grad: Tensor) -> Any:
    return *ops.sparse_write_backward(grad, *ctx.saved_tensors), None


def _write_tangent(ops: Operators, inputs: tuple[Any, ...], out: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    (x, basis, post, res, index), (dx, dbasis, dpost, dres, _) = inputs, tangents
    along = ops.sparse_write(x, basis, dpost, dres, index)  # the streams that are not active have no weights
    along = torch.zeros_like(x).scatter(-2, (at := eager.rows(index, x)), along.gather(-2, at))
    return ops.sparse_write(dx, dbasis, post, res, index) + along


def _write_double_backward(ops: Operators, ctx: Any, *grads: Tensor) -> Any:
    *differentiable, index = ctx.saved_tensors
    pull = torch.func.vjp(partial(eager.sparse_write_backward, index=index), *differentiable)[1]
    return *pull(grads), None


define(
    "sparse_write(Tensor x, Tensor basis, Tensor post, Tensor res, Tensor index) -> Tensor",
    eager.sparse_write,
    fake=lambda x, *_: like_all(x)[0],
    save=save_inputs,
    backward=_write_backward,
    tangent=_write_tangent,
)
define(
    "sparse_write_backward(Tensor grad, Tensor x, Tensor basis, Tensor post, Tensor res, Tensor index)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    eager.sparse_write_backward,
    fake=lambda grad, x, basis, post, res, index: like_all(x, basis, post, res),
    save=save_inputs,
    backward=_write_double_backward,
    tangent=refused,
)
