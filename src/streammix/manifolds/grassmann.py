import torch
from torch import Tensor, nn

from .._checks import is_integer
from .._parameters import assign, parameter_dtype
from .._precision import product
from .base import Guarantees, Manifold


class Grassmann(Manifold):
    r"""Projectors of rank p: :math:`\{U U^T : U \in \mathbb{R}^{n \times p},\ U^T U = I\}` (JPmHC).

    arXiv 2602.18308, App. J. No logits: as in the paper the subspace is a parameter of the site, not a function of the
    token. What is orthogonal to it is erased at every site and only refilled by writes.

    The paper keeps U orthonormal with its own Riemannian optimizer. Here the parameter is any n x p matrix V and U its
    Q factor; H depends on the span of V only, so that the gradient is the paper's horizontal one and any optimizer
    will do. The paper gives no start: here U starts as the p slowest discrete cosines, at every site. The first of them
    is constant, so streams that are equal stay so and a new model equals the plain residual network; the second tells
    all streams apart.

    Args:
        streams: n >= 1.
        rank: p, 1 <= p <= n. Default: n / 2, rounded down, at least 1.

    Raises:
        ValueError: rank is not in 1 ... n.
    """

    num_logits = 0
    guarantees = Guarantees(nonexpansive=True)

    def __init__(self, streams: int, *, rank: int | None = None) -> None:
        super().__init__(streams)
        rank = max(1, streams // 2) if rank is None else rank
        if not is_integer(rank, 1, streams):
            raise ValueError(f"rank: got {rank!r}; accepted: None or 1 ... streams = {streams}")
        self.rank = rank
        self.V = nn.Parameter(torch.empty(streams, rank, dtype=parameter_dtype()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        stream, frequency = torch.arange(self.streams, device="cpu"), torch.arange(self.rank, device="cpu")
        waves = torch.cos(torch.pi / self.streams * (stream.double().unsqueeze(-1) + 0.5) * frequency)
        assign(self.V, waves / waves.norm(dim=0))

    def forward(self, logits: Tensor) -> Tensor:
        logits = self._wide(logits)
        U = torch.linalg.qr(self.V.to(logits.dtype)).Q
        return product(U, U.mT).expand(*logits.shape[:-1], self.streams, self.streams)

    def identity_logits(self) -> Tensor:
        """None: the nearest to the identity is where V starts."""
        return torch.zeros(0)

    def contains(self, H: Tensor, atol: float = 1e-5) -> Tensor:
        """Whether each matrix is a symmetric projector of rank p up to atol."""
        D = torch.where(H.isfinite(), H, 0).double()
        symmetric = ((D - D.mT).abs() <= atol).all(-1).all(-1)
        idempotent = ((D @ D - D).abs() <= atol).all(-1).all(-1)
        rank = (D.diagonal(dim1=-2, dim2=-1).sum(-1) - self.rank).abs() <= self.streams * atol
        return super().contains(H, atol) & symmetric & idempotent & rank

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"
