"""Operators `birkhoff` and `birkhoff_backward`."""

from typing import Any

from torch import Tensor

from ..eager import birkhoff as eager
from ..registry import Operators, define, refused
from .common import like_first, like_second, save_inputs, save_output


def _backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (T,) = ctx.saved_tensors
    return ops.birkhoff_backward(grad, T), None


def _tangent(ops: Operators, inputs: tuple[Any, ...], T: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    """The Jacobian of the projection is symmetric: forwards and backwards are one map."""
    return ops.birkhoff_backward(tangents[0], T)


define(
    "birkhoff(Tensor logits, float? tol=None) -> Tensor",
    eager.birkhoff,
    fake=like_first,
    save=save_output,
    backward=_backward,
    tangent=_tangent,
)


def _double_backward(ops: Operators, ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    """D = T o E(G) is self-adjoint in G; and as T o E(G) and T o E(X) have zero row and column sums, the potentials in
    E do not move <X, D> to first order, which leaves dD/dT = E(X) o E(G)."""
    G, T = ctx.saved_tensors
    return ops.birkhoff_backward(grad, T), eager.centred(grad, T) * eager.centred(G, T)


define(
    "birkhoff_backward(Tensor grad, Tensor matrix) -> Tensor",
    eager.birkhoff_backward,
    fake=like_second,
    save=save_inputs,
    backward=_double_backward,
    tangent=refused,
)
