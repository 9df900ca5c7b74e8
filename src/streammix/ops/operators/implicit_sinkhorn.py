"""Operator `implicit_sinkhorn`: truncated Sinkhorn forward, the implicit derivative of its limit backward."""

from typing import Any

from torch import Tensor

from ..eager import sinkhorn as eager
from ..registry import Operators, define
from ..sinkhorn_rules import RECIPES
from . import birkhoff  # noqa: F401  registers birkhoff_backward
from .common import like_first, save_output


def implicit_sinkhorn(logits: Tensor, rounds: int) -> Tensor:
    """(..., n, n) -> (..., n, n): rounds of rows, then columns (arXiv 2602.18308, App. B).

    The paper stays in the log domain throughout; TransformerEngine's form leaves it after the first round: the same
    numbers.
    """
    return eager.sinkhorn(logits, rounds, *RECIPES["transformer-engine"].numbers)


def _backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (P,) = ctx.saved_tensors
    return ops.birkhoff_backward(grad, P), None


define(
    "implicit_sinkhorn(Tensor logits, int rounds) -> Tensor",
    implicit_sinkhorn,
    fake=like_first,
    save=save_output,
    backward=_backward,
)
