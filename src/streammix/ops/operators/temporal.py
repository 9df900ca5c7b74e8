"""Operators `temporal_basis` and `temporal_basis_backward`. The filters have no batch dimensions: no part in vmap."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..eager import temporal as eager
from ..registry import Operators, define, refused
from .common import like_all


def _empty(known: Tensor, filters: Tensor, tokens: int) -> Tensor:
    *batch, _, C = known.shape
    return known.new_empty(*batch, tokens, 1 + len(filters), C)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.tokens = inputs
    ctx.save_for_backward(*tensors)


def _backward(ops: Operators, ctx: Any, grad: Tensor) -> Any:
    return *ops.temporal_basis_backward(grad, *ctx.saved_tensors, ctx.tokens), None


define(
    "temporal_basis(Tensor known, Tensor filters, int tokens) -> Tensor",
    eager.temporal_basis,
    fake=_empty,
    save=_save,
    backward=_backward,
    vmap=False,
)


def _double_backward(ops: Operators, ctx: Any, *grads: Tensor) -> Any:
    """Through the plain formulas."""
    pull = torch.func.vjp(partial(eager.temporal_basis_backward, tokens=ctx.tokens), *ctx.saved_tensors)[1]
    return *pull(grads), None


define(
    "temporal_basis_backward(Tensor grad, Tensor known, Tensor filters, int tokens) -> (Tensor, Tensor)",
    eager.temporal_basis_backward,
    fake=lambda grad, known, filters, tokens: like_all(known, filters),
    save=_save,
    backward=_double_backward,
    tangent=refused,
    vmap=False,
)
