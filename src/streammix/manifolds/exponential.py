import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_name, check_number
from .._parameters import assign, parameter_dtype
from ..ops import sharding
from .base import OFF_DIAGONAL, Guarantees, Manifold
from .constant import Constant

GENERATORS = ("conservative", "psd", "diagonal", "conservative-psd", "conservative-diagonal")
LIMIT = 2.0**26  # of an entry of dt (S - D); beyond it rounding in float64 would be seen in float32
#: torch's matrix_exp is right to 1e-10 only for norms from 1e-2 to 0.05 in float64. The diagonal of -D is not positive,
#: so that taking this from it puts the norm above that range.
SHIFT = 0.0625


class Exponential(Manifold):
    r"""Flows for a time dt: :math:`\{e^{dt (S - D)} : S = -S^T,\ D \succeq 0\}` (continuous generalised HC).

        S = U - U', U the part of M above its diagonal      D = R R', R the rest of M, or D = diag(softplus(M_ii))

    (pjjajal/hyperconnections, its class ContinuousGenHyperConnections; no paper was found.) The logits fill, row by
    row, those entries of an n x n matrix M that the generator uses:

        generator                  S - D          logits         H
        "conservative"             S              n (n - 1) / 2  rotations: every norm is kept
        "psd"                      -R R'          n (n + 1) / 2  symmetric, eigenvalues in (0, 1]
        "diagonal"                 -diag(...)     n              diagonal, entries in (0, 1)
        "conservative-psd"         S - R R'       n^2            ||H||_2 <= 1; the source's default
        "conservative-diagonal"    S - diag(...)  n (n + 1) / 2  ||H||_2 < 1

    The bounds hold because the symmetric part of S - D is -D. There are as many logits as S and D have dimensions; the
    source takes n^2 for S and n^2 for a full R. The mean of the streams is kept only where S 1 = D 1 = 0.

    H is torch.linalg.matrix_exp in float64, where the device has it; the host waits for the device, because how often
    it squares depends on the numbers. A generator with an entry beyond 2^26 is scaled back to that as a whole, and the
    gradient is then that of the scaled one.

    The source starts at R = 0, from where R R' has no gradient and never moves. `identity_logits` has S = 0 and R R' =
    n e^-8 (I - J) instead, J = 11'/n: e^-8 off the diagonal of H, as mHC's start, and equal streams stay equal. A
    diagonal D starts at softplus(-8), where the source has -5. The source's Laplacian generators, of attention between
    streams, and its protected directions are not here.

    Args:
        streams: n >= 1.
        generator: one of the five.
        dt: > 0, the time; 1 in the source.
        learn_dt: whether log dt is a parameter, as the source may have it (there with dt clamped to [0.001, 1]).

    Raises:
        ValueError: another generator, or dt is not a finite number above zero.
    """

    def __init__(
        self, streams: int, *, generator: str = "conservative-psd", dt: float = 1.0, learn_dt: bool = False
    ) -> None:
        super().__init__(streams)
        check_name("generator", generator, GENERATORS)
        check_number("dt", dt, "finite numbers > 0", zero=False)
        self.generator, self.dt = generator, dt
        words = generator.split("-")
        self.shrinks = words[-1] if words[-1] != "conservative" else None
        above, on, below = words[0] == "conservative", self.shrinks is not None, self.shrinks == "psd"
        places = itertools.product(range(streams), repeat=2)
        used = [k for k, (i, j) in enumerate(places) if (above if i < j else on if i == j else below)]
        self.index = Constant(torch.tensor(used, dtype=torch.int64, device="cpu"))
        self.num_logits = len(used)
        self.guarantees = Guarantees(nonexpansive=True, orthogonal=self.shrinks is None)
        self.log_dt = nn.Parameter(torch.empty(1, dtype=parameter_dtype())) if learn_dt else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.log_dt is not None:
            assign(self.log_dt, math.log(self.dt))

    def forward(self, logits: Tensor) -> Tensor:
        logits = self._wide(logits)
        if self.log_dt is None:
            return self._flow(logits, self.dt)
        last = self.log_dt.to(logits.dtype).expand(*logits.shape[:-1], 1)
        given = torch.cat([logits, last], -1)
        return sharding.by_tokens(self._learned, given) if sharding.is_sharded(given) else self._learned(given)

    def _learned(self, given: Tensor) -> Tensor:
        """Of logits and log dt (..., num_logits + 1)."""
        logits, log_dt = given.split([self.num_logits, 1], -1)
        return self._flow(logits, log_dt.exp().unsqueeze(-1))

    def _flow(self, logits: Tensor, dt: Tensor | float) -> Tensor:
        n, wide = self.streams, logits if logits.is_mps else logits.double()
        bad = logits.isnan().any(-1)[..., None, None]
        M = wide.new_zeros(*wide.shape[:-1], n * n).index_copy(-1, self.index.on(wide.device), wide)
        A = dt * self._generated(torch.where(bad, 0, M.unflatten(-1, (n, n))))
        A = A * (LIMIT / A.detach().abs().amax((-1, -2), keepdim=True).clamp(min=LIMIT))
        H = math.exp(SHIFT) * torch.linalg.matrix_exp(A - SHIFT * torch.eye(n, dtype=A.dtype, device=A.device))
        return torch.where(bad, torch.nan, H).to(logits.dtype)

    def _generated(self, M: Tensor) -> Tensor:
        """S - D."""
        U = M.triu(1)
        S = U - U.mT
        if self.shrinks == "psd":
            R = M.tril()
            return S - R @ R.mT
        if self.shrinks == "diagonal":
            return S - F.softplus(M.diagonal(dim1=-2, dim2=-1)).diag_embed()
        return S

    def identity_logits(self) -> Tensor:
        n = self.streams
        M = torch.zeros(n, n)
        if self.shrinks == "psd":  # R / sqrt(n e^-8): the Cholesky factor of I - J, column by column
            for j in range(n - 1):
                M[j, j] = ((n - 1 - j) / (n - j)) ** 0.5
                M[j + 1 :, j] = -(((n - j) * (n - 1 - j)) ** -0.5)
            M *= (n * math.exp(OFF_DIAGONAL)) ** 0.5
        elif self.shrinks == "diagonal":
            M.fill_diagonal_(OFF_DIAGONAL)
        return M.flatten()[self.index.on(M.device)]

    def extra_repr(self) -> str:
        learned = "" if self.log_dt is None else ", learn_dt=True"
        return f"{super().extra_repr()}, generator={self.generator!r}, dt={self.dt}{learned}"
