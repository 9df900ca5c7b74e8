import torch
from torch import Tensor

from ..ops.eager.cayley import upper
from .base import Guarantees, Manifold
from .rotations import rotation


class Stiefel(Manifold):
    r"""Rotations :math:`\{H : H^T H = I,\ \det H = 1\}` by the Cayley map (JPmHC, arXiv 2602.18308, Sec. 3, App. I).

        H = (I - alpha/2 W)^-1 (I + alpha/2 W),   W = L - L'  for the n^2 logits L, row-major

    The norm of the state is kept, the mean of the streams is not. Zero logits are the identity. All rotations but those
    with the eigenvalue -1 are reached.

    The paper iterates Y <- I + alpha/2 W (I + Y) from Y = I + alpha W, twice, which is this map only for small logits:
    at n = 4 with logits s N(0, 1) the largest entry of |Y'Y - I| in 10^4 draws is 5e-4 for s = 0.3, 0.08 for s = 1
    and thousands for s = 10. `iterations=2` is the paper's; it then guarantees nothing. (Sec. 3.1 prints the fixed
    point with the opposite sign; the iteration decides.)

    Args:
        streams: n >= 1.
        alpha: 0.1 in the paper.
        iterations: None for the exact map, or the number of steps of the paper's iteration, >= 1.

    Raises:
        ValueError: iterations < 1 or alpha is not positive.
    """

    def __init__(self, streams: int, *, alpha: float = 0.1, iterations: int | None = None) -> None:
        super().__init__(streams)
        if not alpha > 0:
            raise ValueError(f"alpha: got {alpha}; accepted: positive numbers")
        if iterations is not None and iterations < 1:
            raise ValueError(f"iterations: got {iterations}; accepted: None or integers >= 1")
        self.num_logits = streams**2
        self.alpha = alpha
        self.iterations = iterations
        exact = iterations is None
        self.guarantees = Guarantees(nonexpansive=exact, orthogonal=exact)

    def forward(self, logits: Tensor) -> Tensor:
        L = self._square(self._wide(logits))
        A = self.alpha / 2 * (L - L.mT)
        if self.streams == 1:  # a NaN stays one
            return 1 + A
        if self.iterations is None:
            return rotation(upper(-A), self.streams)
        eye = torch.eye(self.streams, dtype=A.dtype, device=A.device)
        Y = eye + 2 * A
        for _ in range(self.iterations):
            Y = eye + A @ (eye + Y)
        return Y

    def identity_logits(self) -> Tensor:
        return torch.zeros(self.num_logits)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}, iterations={self.iterations}"
