"""Operators `sinkhorn` and `sinkhorn_backward`."""

from typing import Any

import torch
from torch import Tensor

from ..eager import sinkhorn as eager
from ..registry import Operators, define, refused
from .common import like_first, like_second


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, *ctx.rule = inputs  # rounds, start, columns_last, eps
    ctx.save_for_backward(logits)


def _backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (logits,) = ctx.saved_tensors
    return ops.sinkhorn_backward(grad, logits, *ctx.rule), None, None, None, None


define(
    "sinkhorn(Tensor logits, int rounds, int start, bool columns_last, float eps) -> Tensor",
    eager.sinkhorn,
    fake=like_first,
    save=_save,
    backward=_backward,
)


def _save_both(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, logits, *ctx.rule = inputs
    ctx.save_for_backward(grad, logits)


def _double_backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Through the plain formulas: second derivatives of a truncated iteration have no shorter form."""

    def plain(G: Tensor, logits: Tensor) -> Tensor:
        return eager.sinkhorn_backward(G, logits, *ctx.rule, differentiable=True)

    pull = torch.func.vjp(plain, *ctx.saved_tensors)[1]
    return *pull(grad), None, None, None, None


define(
    "sinkhorn_backward(Tensor grad, Tensor logits, int rounds, int start, bool columns_last, float eps) -> Tensor",
    eager.sinkhorn_backward,
    fake=like_second,
    save=_save_both,
    backward=_double_backward,
    tangent=refused,
)
