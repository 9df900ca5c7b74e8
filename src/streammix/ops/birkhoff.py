"""Operators `birkhoff` and `birkhoff_backward`."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .eager import birkhoff as eager
from .registry import define


def _empty(logits: Tensor, tol: float | None = None) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _backward(ops: SimpleNamespace, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (T,) = ctx.saved_tensors
    return ops.birkhoff_backward(grad, T), None


define(
    "birkhoff(Tensor logits, float? tol=None) -> Tensor",
    eager.birkhoff,
    fake=_empty,
    save=_save,
    backward=_backward,
)


def _empty_grad(grad: Tensor, matrix: Tensor) -> Tensor:
    return torch.empty_like(matrix, memory_format=torch.contiguous_format)


def _save_both(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _double_backward(ops: SimpleNamespace, ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    """D = T o E(G) is self-adjoint in G; and as T o E(G) and T o E(X) have zero row and column sums, the potentials in
    E do not move <X, D> to first order, which leaves dD/dT = E(X) o E(G)."""
    G, T = ctx.saved_tensors
    return ops.birkhoff_backward(grad, T), eager.centred(grad, T) * eager.centred(G, T)


define(
    "birkhoff_backward(Tensor grad, Tensor matrix) -> Tensor",
    eager.birkhoff_backward,
    fake=_empty_grad,
    save=_save_both,
    backward=_double_backward,
)
