import torch
from torch import Tensor, nn

from .._parameters import assign, parameter_dtype
from .._precision import product
from .base import Guarantees, Manifold
from .rotations import SumsKept, rotation

IDENTITY_SIGMA = 4.0  # tanh(4) = 0.9993


class SpectralSphere(Manifold):
    r"""Bounded spectrum, sums kept: :math:`\{J + U_z E U_z^T : \|E\|_2 < 1\},\ J = 11^T/n` (sHC, arXiv 2603.20896).

        E = U diag(tanh l_S) V',   U = Cayley(skew(gamma_u tanh l_U)),   V = Cayley(skew(gamma_v tanh l_V))

    U_z is the Helmert basis of the vectors that sum to zero, so rows and columns sum to one; entries may be negative.
    (n - 1)^2 logits: l_U and l_V ((n - 1)(n - 2) / 2 each), then l_S (n - 1). gamma_u, gamma_v are learnable, 1 at
    first; at n = 4 they then reach every E of norm below one. Read from the source's code, as its formulas are.

    Starts, as the source, with l_U = l_V = 0 and l_S = 4: singular values 0.9993, whose gradient tanh damps by 750.

    Args:
        streams: n >= 1.
    """

    guarantees = Guarantees(rows=True, columns=True, nonexpansive=True)

    def __init__(self, streams: int) -> None:
        super().__init__(streams)
        m = streams - 1
        self.num_logits = m**2
        self.sizes = (m * (m - 1) // 2, m * (m - 1) // 2, m)
        self.sums_kept = SumsKept(streams)
        self.gamma = nn.Parameter(torch.empty(2, dtype=parameter_dtype()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        assign(self.gamma, 1.0)

    def forward(self, logits: Tensor) -> Tensor:
        logits = self._wide(logits)
        u, v, sigma = logits.tanh().split(self.sizes, -1)
        angles = self.gamma.to(logits.dtype).unsqueeze(-1) * torch.stack([u, v], -2)
        U, V = rotation(angles, self.streams - 1).unbind(-3)
        return self.sums_kept(product(U * sigma.unsqueeze(-2), V.mT))

    def identity_logits(self) -> Tensor:
        return torch.cat([torch.zeros(2 * self.sizes[0]), torch.full((self.sizes[2],), IDENTITY_SIGMA)])
