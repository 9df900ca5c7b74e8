"""Operator `implicit_sinkhorn`: truncated Sinkhorn forward, the implicit derivative of its limit backward."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import birkhoff  # noqa: F401  registers birkhoff_backward
from .eager import sinkhorn as eager
from .registry import define


def implicit_sinkhorn(logits: Tensor, rounds: int) -> Tensor:
    """(..., n, n) -> (..., n, n): rounds of rows, then columns (arXiv 2602.18308, App. B).

    The paper stays in the log domain throughout; TransformerEngine's form leaves it after the first round: the same
    numbers.
    """
    return eager.sinkhorn(logits, rounds, "transformer-engine")


def _empty(logits: Tensor, rounds: int) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _backward(ops: SimpleNamespace, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (P,) = ctx.saved_tensors
    return ops.birkhoff_backward(grad, P), None


define(
    "implicit_sinkhorn(Tensor logits, int rounds) -> Tensor",
    implicit_sinkhorn,
    fake=_empty,
    save=_save,
    backward=_backward,
)
