import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_number
from .._parameters import assign, parameter_dtype
from .base import Guarantees, Manifold


class UnitDiagonal(Manifold):
    r"""Bounded signed deviations from the identity: :math:`\{H : H_{ii} = 1,\ |H_{ij}| \le b\ (i \ne j)\}` (ITO-HC).

        H_ij = b tanh(l_ij),  i != j

    (OpenReview nKRfYmPtP2, its abstract, read second-hand: an exact unit diagonal and bounded signed off-diagonals by a
    tanh, the same for every token.) n (n - 1) logits, row-major without the diagonal; zero logits are the identity, bit
    for bit, with a gradient of b. What one stream gives another may be of either sign, so that differences between
    streams may grow: a product over L sites is bounded by (1 + (n - 1) b)^L alone.

    The bound b is not stated where it could be read. Here it is 1/n, the simplest with which every H is strictly
    diagonally dominant, and so invertible: no site can lose a stream.

    Args:
        streams: n >= 1.
        bound: b > 0. Default: 1/n.
        static: the l_ij are parameters of the manifold, as in the source, zero at first; then it takes no logits.

    Raises:
        ValueError: bound is not a finite number above zero.
    """

    guarantees = Guarantees()

    def __init__(self, streams: int, *, bound: float | None = None, static: bool = False) -> None:
        super().__init__(streams)
        if bound is not None:
            check_number("bound", bound, "None or finite numbers > 0", zero=False)
        entries = streams * (streams - 1)
        self.num_logits = 0 if static else entries
        self.bound = 1 / streams if bound is None else bound
        self.entries = nn.Parameter(torch.empty(entries, dtype=parameter_dtype())) if static else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.entries is not None:
            assign(self.entries, 0.0)

    def forward(self, logits: Tensor) -> Tensor:
        n, logits = self.streams, self._wide(logits)
        if self.entries is not None:
            H = self._matrix(self.entries.to(logits.dtype))
            return H.expand(*logits.shape[:-1], n, n)
        return torch.where(logits.isnan().any(-1)[..., None, None], torch.nan, self._matrix(logits))

    def _matrix(self, entries: Tensor) -> Tensor:
        n = self.streams
        if n == 1:  # no entries; autograd sees them all the same
            return entries.new_ones(*entries.shape[:-1], 1, 1) + entries.sum(-1)[..., None, None]
        # Row-major, the first diagonal entry is followed by n others and one diagonal entry in turns.
        others = F.pad((self.bound * entries.tanh()).unflatten(-1, (n - 1, n)), (0, 1), value=1.0)
        return F.pad(others.flatten(-2), (1, 0), value=1.0).unflatten(-1, (n, n))

    def identity_logits(self) -> Tensor:
        return torch.zeros(self.num_logits)

    def contains(self, H: Tensor, atol: float = 1e-5) -> Tensor:
        """Whether each matrix has ones on its diagonal and at most the bound elsewhere, up to atol."""
        D = torch.where(H.isfinite(), H, 0).double()
        diagonal = D.diagonal(dim1=-2, dim2=-1)
        ones = ((diagonal - 1).abs() <= atol).all(-1)
        bounded = ((D - diagonal.diag_embed()).abs() <= self.bound + atol).all(-1).all(-1)
        return super().contains(H, atol) & ones & bounded

    def extra_repr(self) -> str:
        static = "" if self.entries is None else ", static=True"
        return f"{super().extra_repr()}, bound={self.bound:.4g}{static}"
