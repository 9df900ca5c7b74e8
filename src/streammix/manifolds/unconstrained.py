import torch
from torch import Tensor

from .base import Guarantees, Manifold


class Unconstrained(Manifold):
    r"""All matrices :math:`\mathbb{R}^{n \times n}`: the logits are the matrix (HC, arXiv 2409.19606).

    n^2 logits, row-major. Nothing bounds a product of such matrices over depth: mHC measured composite gains near
    3000 in a 27B model.

    Args:
        streams: n >= 1.
    """

    guarantees = Guarantees()
    takes_sharded = True

    def __init__(self, streams: int) -> None:
        super().__init__(streams)
        self.num_logits = streams**2

    def forward(self, logits: Tensor) -> Tensor:
        return self._square(logits)

    def identity_logits(self) -> Tensor:
        return torch.eye(self.streams).flatten()
