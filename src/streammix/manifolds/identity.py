import torch
from torch import Tensor

from .base import Guarantees, Manifold


class Identity(Manifold):
    r"""The single matrix :math:`I`: streams are not mixed, only read and written ("iHC", arXiv 2607.28611).

    No logits.

    Args:
        streams: n >= 1.
    """

    num_logits = 0
    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True, orthogonal=True)

    def forward(self, logits: Tensor) -> Tensor:
        self._check(logits)
        eye = torch.eye(self.streams, dtype=logits.dtype, device=logits.device)
        return eye.expand(*logits.shape[:-1], self.streams, self.streams)

    def identity_logits(self) -> Tensor:
        return torch.zeros(0)
