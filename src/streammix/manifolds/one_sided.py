import torch
from torch import Tensor

from .base import Guarantees, Manifold, near_identity_square


class OneSided(Manifold):
    r"""Stochastic matrices, with one marginal fixed: :math:`\{H \ge 0 : H1 = 1\}` or :math:`\{H \ge 0 : 1^TH = 1^T\}`.

        sums "rows":     H_ij = exp(l_ij) / sum_k exp(l_ik)
        sums "columns":  H_ij = exp(l_ij) / sum_k exp(l_kj)

    (osHC, "One Marginal Is Enough", OpenReview 1BC0eYN2uS, Theorems 4.1 and 4.2; read second-hand.) n^2 logits,
    row-major. Products of either kind stay in the set, so that their spectral norm is at most sqrt(n) at any depth,
    against 1 for doubly stochastic ones. With "rows" a stream may be replicated into all others, and equal streams stay
    equal; with "columns" all may be gathered in one, and their sum is kept. Of a product that switches once from one
    to the other the norm is at most n, which replicating stream 0 and then gathering all in it attains.

    The source is known to fix one marginal; that a softmax does so, in place of a division by sums, is our reading. A
    logit of -inf is a mask: its entry and its gradient are exactly zero. A matrix with a row (column) that is masked as
    a whole is NaN.

    Args:
        streams: n >= 1.
        sums: which sums are one, "rows" or "columns".

    Raises:
        ValueError: sums is neither.
    """

    entrywise = True

    def __init__(self, streams: int, *, sums: str = "rows") -> None:
        super().__init__(streams)
        if sums not in ("rows", "columns"):
            raise ValueError(f"sums: got {sums!r}; accepted: rows, columns")
        self.num_logits = streams**2
        self.sums = sums
        self.guarantees = Guarantees(rows=sums == "rows", columns=sums == "columns", nonnegative=True)

    def forward(self, logits: Tensor) -> Tensor:
        L = self._square(logits)
        L = L.to(torch.promote_types(L.dtype, torch.float32))
        along = -1 if self.sums == "rows" else -2
        # The largest of a row is not finite where there is a NaN or +inf in it, or -inf alone.
        sound = L.detach().amax(along).isfinite().all(-1)
        return torch.where(sound[..., None, None], L, torch.nan).softmax(along)

    def identity_logits(self) -> Tensor:
        return near_identity_square(self.streams)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sums={self.sums!r}"
