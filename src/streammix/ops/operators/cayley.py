"""Operators `cayley` and `cayley_backward`."""

from typing import Any

import torch
from torch import Tensor

from ..eager import cayley as eager
from ..registry import Operators, define, refused
from .common import save_inputs, save_output


def _empty(entries: Tensor, n: int) -> Tensor:
    return entries.new_empty(*entries.shape[:-1], n, n)


def _backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (Q,) = ctx.saved_tensors
    return ops.cayley_backward(grad, Q), None


def _tangent(ops: Operators, inputs: tuple[Any, ...], Q: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    """dQ = -1/2 P dA P with P = I + Q."""
    P = Q + torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    return -0.5 * P @ eager.skew(tangents[0], Q.shape[-1]) @ P


define(
    "cayley(Tensor entries, int n) -> Tensor",
    eager.cayley,
    fake=_empty,
    save=save_output,
    backward=_backward,
    tangent=_tangent,
)


def _empty_entries(grad: Tensor, matrix: Tensor) -> Tensor:
    n = matrix.shape[-1]
    return matrix.new_empty(*matrix.shape[:-2], n * (n - 1) // 2)


def _double_backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Through the plain formula: it is bilinear in grad and I + Q."""
    return torch.func.vjp(eager.cayley_backward, *ctx.saved_tensors)[1](grad)


define(
    "cayley_backward(Tensor grad, Tensor matrix) -> Tensor",
    eager.cayley_backward,
    fake=_empty_entries,
    save=save_inputs,
    backward=_double_backward,
    tangent=refused,
)
