import math

import torch
from torch import Tensor

from .._checks import check_integer
from .._precision import product
from .base import OFF_DIAGONAL, Guarantees, Manifold
from .constant import Constant
from .rotations import rotation


class Orthostochastic(Manifold):
    r"""Block norms of rotations :math:`\{H_{ij} = \frac1s \|Q_{ij}\|_F^2 : Q \in SO(ns)\}` (go-mHC, arXiv 2604.02309).

    Q_ij are the s x s blocks of Q = Cayley(skew(logits)): as rows and columns of Q have norm one, H is doubly
    stochastic. s = 1 gives the orthostochastic matrices; larger s fills the polytope. n s (n s - 1) / 2 logits: the
    strict upper triangle, row by row, stream i and part k at index i s + k.

    H is quadratic in Q - I, so zero logits have no gradient at all: a start there is dead. The source's language model
    is not published; here all logits start at e^-4 / (2 sqrt s), which puts e^-8 off the diagonal, as mHC's start does,
    with a gradient about 200 / s times as large.

    Args:
        streams: n >= 1.
        s: parts a stream, >= 1; 2 is the source's recommendation.

    Raises:
        ValueError: s < 1.
    """

    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True)

    def __init__(self, streams: int, *, s: int = 2) -> None:
        super().__init__(streams)
        check_integer("s", s, 1)
        self.s = s
        self.num_logits = streams * s * (streams * s - 1) // 2
        # Entry (i s + k, j s + l) of the squares, over s, adds to H_ij: one product.
        block = torch.eye(streams, dtype=torch.float32, device="cpu").repeat_interleave(s, 0)
        blocks = block[:, None, :, None] * block[None, :, None, :]
        self.blocks = Constant(blocks.reshape((streams * s) ** 2, streams**2))

    def forward(self, logits: Tensor) -> Tensor:
        n, s = self.streams, self.s
        Q = rotation(self._wide(logits), n * s)
        return (product(Q.square().flatten(-2), self.blocks.on(Q.device)) / s).unflatten(-1, (n, n))

    def identity_logits(self) -> Tensor:
        return torch.full((self.num_logits,), math.exp(OFF_DIAGONAL / 2) / (2 * math.sqrt(self.s)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, s={self.s}"
