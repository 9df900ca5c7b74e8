"""Operators `transport` and `transport_backward`."""

from typing import Any

import torch
from torch import Tensor

from ..eager import transport as eager
from ..eager import transport_implicit as implicit
from ..registry import Operators, define, refused
from .common import like_first, save_inputs, save_output


def _backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    (T,) = ctx.saved_tensors
    return ops.transport_backward(grad, T)


def _tangent(ops: Operators, inputs: tuple[Any, ...], T: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    dR, dr, dc = tangents
    return implicit.tangent(dR, dr, dc, T)


define(
    "transport(Tensor logits, Tensor rows, Tensor columns) -> Tensor",
    eager.transport,
    fake=like_first,
    save=save_output,
    backward=_backward,
    tangent=_tangent,
)


def _empty(grad: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.empty_like(matrix, memory_format=torch.contiguous_format)
    return like, matrix.new_empty(matrix.shape[:-1]), matrix.new_empty(*matrix.shape[:-2], matrix.shape[-1])


def _double_backward(ops: Operators, ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
    D, x, w = grads
    return implicit.double_backward(D, x, w, *ctx.saved_tensors)


define(
    "transport_backward(Tensor grad, Tensor matrix) -> (Tensor, Tensor, Tensor)",
    implicit.transport_backward,
    fake=_empty,
    save=save_inputs,
    backward=_double_backward,
    tangent=refused,
)
