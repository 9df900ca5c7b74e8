"""The Cayley map from logits to rotations, and a basis of what is orthogonal to 1."""

import torch
from torch import Tensor

from .. import ops
from .._precision import product
from ..ops import sharding
from .constant import Constant


def rotation(entries: Tensor, n: int) -> Tensor:
    """Q = (I + A)^-1 (I - A): every rotation that lacks the eigenvalue -1, orthogonal to rounding for A of any size.

    entries (..., n (n - 1) / 2): the skew-symmetric A above its diagonal, row by row. Only Q (..., n, n) is kept for
    the backward pass.
    """
    if n < 2:  # no entries; autograd sees them all the same
        return entries.new_ones(*entries.shape[:-1], n, n) + entries.sum(-1)[..., None, None]
    return ops.cayley(entries, n)


def helmert(n: int, like: Tensor) -> Tensor:
    """U (n, n - 1) with U'U = I and U'1 = 0. Column i: i ones, then -i, then zeros, over sqrt(i (i + 1))."""
    row = torch.arange(n, dtype=like.dtype, device=like.device).unsqueeze(-1)
    i = torch.arange(1, n, dtype=like.dtype, device=like.device)
    return torch.where(row < i, 1, torch.where(row == i, -i, 0)) / (i * (i + 1)).sqrt()


class SumsKept:
    """J + U E U' with J = 11'/n and U = helmert(n): E (..., n - 1, n - 1) acts on differences, means stay.

    As one product with the Kronecker square of U: many small ones take several times as long.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        U = helmert(n, torch.empty(0, dtype=torch.float64, device="cpu")).mT
        self.square = Constant((U[:, None, :, None] * U[None, :, None, :]).reshape((n - 1) ** 2, n * n))

    def __call__(self, E: Tensor) -> Tensor:
        flat = E.flatten(-2)
        return sharding.by_tokens(self._kept, flat) if sharding.is_sharded(flat) else self._kept(flat)

    def _kept(self, flat: Tensor) -> Tensor:
        n, device = self.n, flat.device
        square = self.square.values.to(flat.dtype).to(device) if flat.is_mps else self.square.on(device)
        return (1 / n + product(flat, square)).unflatten(-1, (n, n))
