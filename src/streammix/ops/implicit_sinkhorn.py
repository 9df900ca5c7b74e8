"""Operator `implicit_sinkhorn`: truncated Sinkhorn forward, the implicit derivative of its limit backward."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import birkhoff  # noqa: F401  registers birkhoff_backward
from .registry import define


def implicit_sinkhorn(logits: Tensor, rounds: int) -> Tensor:
    """(..., n, n) -> (..., n, n): rounds of rows, then columns, in the log domain (arXiv 2602.18308, App. B)."""
    log_P = logits.to(torch.promote_types(logits.dtype, torch.float32))
    for _ in range(rounds):
        log_P = log_P.log_softmax(-1).log_softmax(-2)
    return log_P.exp().to(logits.dtype)


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
