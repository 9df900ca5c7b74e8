import torch
from torch import Tensor

from .base import Guarantees, Manifold
from .rotations import SumsKept, rotation


class Isometric(Manifold):
    r"""Rotations that fix 1: :math:`\{J + U_z Q U_z^T : Q \in SO(n-1)\},\ J = 11^T/n` ("IsoHC").

    `SpectralSphere` with all singular values one: the mean of the streams and the norm of their differences are both
    kept. Rows and columns sum to one; entries may be negative (nonnegative and orthogonal would leave only
    permutations). (n - 1)(n - 2) / 2 logits: Q is the Cayley map of their skew-symmetric matrix, which reaches all of
    SO(n - 1) but rotations by exactly pi. Zero logits are the identity. At n <= 2 it is the only member.

    There is no paper on it alone: it is the sigma = 1 member of sHC (arXiv 2603.20896).

    Args:
        streams: n >= 1.
    """

    guarantees = Guarantees(rows=True, columns=True, nonexpansive=True, orthogonal=True)

    def __init__(self, streams: int) -> None:
        super().__init__(streams)
        self.num_logits = (streams - 1) * (streams - 2) // 2
        self.sums_kept = SumsKept(streams)

    def forward(self, logits: Tensor) -> Tensor:
        return self.sums_kept(rotation(self._wide(logits), self.streams - 1))

    def identity_logits(self) -> Tensor:
        return torch.zeros(self.num_logits)
