"""Operators `chart` and `chart_backward`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..eager import chart as eager
from ..registry import Operators, define, refused
from .common import like_second


def _empty(logits: Tensor, n: int, *_: Any) -> Tensor:
    return logits.new_empty(*logits.shape[:-1], n, n)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, *ctx.chart = inputs  # n, recursive, scaled
    ctx.save_for_backward(logits)


def _backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (logits,) = ctx.saved_tensors
    return ops.chart_backward(grad, logits, *ctx.chart), None, None, None


def _tangent(ops: Operators, inputs: tuple[Any, ...], H: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    """By the plain formula's reverse mode, twice: v -> J' v is linear, and its pullback is t -> J t."""
    logits, n, recursive, scaled = inputs
    pull = torch.func.vjp(partial(eager.chart, n=n, recursive=recursive, scaled=scaled), logits)[1]
    return torch.func.vjp(pull, torch.zeros_like(H))[1](tangents[:1])[0]


define(
    "chart(Tensor logits, int n, bool recursive, bool scaled) -> Tensor",
    eager.chart,
    fake=_empty,
    save=_save,
    backward=_backward,
    tangent=_tangent,
)


def _save_both(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, logits, *settings = inputs
    ctx.chart = dict(zip(("n", "recursive", "scaled"), settings))
    ctx.save_for_backward(grad, logits)


def _double_backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Through the plain formulas: the second derivatives have no shorter form."""
    pull = torch.func.vjp(partial(eager.chart_backward, **ctx.chart), *ctx.saved_tensors)[1]
    return *pull(grad), None, None, None


define(
    "chart_backward(Tensor grad, Tensor logits, int n, bool recursive, bool scaled) -> Tensor",
    eager.chart_backward,
    fake=like_second,
    save=_save_both,
    backward=_double_backward,
    tangent=refused,
)
