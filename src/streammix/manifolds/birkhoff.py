from torch import Tensor

from ..functional import birkhoff
from .base import Guarantees, Manifold, near_identity_square


class Birkhoff(Manifold):
    r"""Doubly stochastic matrices :math:`\{H \ge 0 : H1 = 1,\ 1^T H = 1^T\}`, by exact entropic projection.

    n^2 logits, row-major; the map is `streammix.birkhoff` (arXiv 2606.07574): the limit that truncated Sinkhorn
    approaches. Products of such matrices stay in the set, and ||H||_2 = 1.

    Args:
        streams: n >= 1.
        tol: see `streammix.birkhoff`.
        transposed: H is the transpose of the projection, for logits from a source that applies H' x: DeepSeek-V4's.
    """

    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True)
    takes_sharded = True
    entrywise = True

    def __init__(self, streams: int, *, tol: float | None = None, transposed: bool = False) -> None:
        super().__init__(streams)
        self.num_logits = streams**2
        self.tol = tol
        self.transposed = transposed

    @property
    def projects(self) -> bool:  # type: ignore[override]
        return type(self).forward is Birkhoff.forward and not self.transposed  # a subclass may map otherwise

    @property
    def mixing_rule(self) -> tuple[int, int, bool, bool, float] | None:  # type: ignore[override]
        return (0, 0, False, False, self.tol or 0.0) if self.projects else None

    def forward(self, logits: Tensor) -> Tensor:
        H = birkhoff(self._square(logits), tol=self.tol)
        return H.mT if self.transposed else H

    def identity_logits(self) -> Tensor:
        return near_identity_square(self.streams)
