"""Operators `cayley` and `cayley_backward`."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .eager import cayley as eager
from .registry import define


def _empty(entries: Tensor, n: int) -> Tensor:
    return entries.new_empty(*entries.shape[:-1], n, n)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _backward(ops: SimpleNamespace, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (Q,) = ctx.saved_tensors
    return ops.cayley_backward(grad, Q), None


define("cayley(Tensor entries, int n) -> Tensor", eager.cayley, fake=_empty, save=_save, backward=_backward)


def _empty_entries(grad: Tensor, matrix: Tensor) -> Tensor:
    n = matrix.shape[-1]
    return matrix.new_empty(*matrix.shape[:-2], n * (n - 1) // 2)


def _save_both(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _double_backward(ops: SimpleNamespace, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Through the plain formula: it is bilinear in grad and I + Q."""
    return torch.func.vjp(eager.cayley_backward, *ctx.saved_tensors)[1](grad)


define(
    "cayley_backward(Tensor grad, Tensor matrix) -> Tensor",
    eager.cayley_backward,
    fake=_empty_entries,
    save=_save_both,
    backward=_double_backward,
)
