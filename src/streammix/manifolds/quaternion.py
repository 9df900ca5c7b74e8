import torch
from torch import Tensor

from .._parameters import parameter_dtype
from .._precision import product
from .base import Guarantees, Manifold
from .constant import Constant


class Quaternion(Manifold):
    r"""Rotations of four streams :math:`\{x \mapsto q\,x\,\bar r : |q| = |r| = 1\} = SO(4)` (oHC, arXiv 2609.02672).

    Eight logits: q is (1 + l_0, l_1, l_2, l_3) over its norm, r the same of l_4 ... l_7; H is the product of the
    matrices of left multiplication by q and right multiplication by conj(r). Zero logits are the identity, bit for bit.
    The norm of the state is kept, the mean of the streams is not.

    The source adds an eps to the squared norms, which breaks orthogonality near the zero quaternion; here there is
    none, and the zero quaternion itself counts as 1.

    Args:
        streams: 4.

    Raises:
        ValueError: another number of streams.
    """

    num_logits = 8
    guarantees = Guarantees(nonexpansive=True, orthogonal=True)

    def __init__(self, streams: int = 4) -> None:
        super().__init__(streams)
        if streams != 4:
            raise ValueError(f"streams: got {streams}; Quaternion accepts 4")
        units = torch.eye(4, dtype=parameter_dtype(), device="cpu")
        self.products = Constant(torch.einsum("aij,bjk->abik", _left(units), _right(units)).reshape(16, 16))

    def forward(self, logits: Tensor) -> Tensor:
        q, r = _unit(self._wide(logits).unflatten(-1, (2, 4))).unbind(-2)
        # left(q) right(r) is linear in each: one product with those of the units takes less than making both.
        pairs = (q.unsqueeze(-1) * r.unsqueeze(-2)).flatten(-2)
        return product(pairs, self.products.on(pairs.device)).unflatten(-1, (4, 4))

    def identity_logits(self) -> Tensor:
        return torch.zeros(8)


def _left(q: Tensor) -> Tensor:
    """(..., 4) -> (..., 4, 4): x -> q x."""
    w, x, y, z = q.unbind(-1)
    return torch.stack([w, -x, -y, -z, x, w, -z, y, y, z, w, -x, z, -y, x, w], -1).unflatten(-1, (4, 4))


def _right(r: Tensor) -> Tensor:
    """(..., 4) -> (..., 4, 4): x -> x conj(r)."""
    w, x, y, z = r.unbind(-1)
    return torch.stack([w, x, y, z, -x, w, -z, y, -y, z, w, -x, -z, -y, x, w], -1).unflatten(-1, (4, 4))


def _unit(logits: Tensor) -> Tensor:
    """(1 + l_0, l_1, l_2, l_3) over its norm."""
    one = torch.eye(1, 4, dtype=logits.dtype, device=logits.device)[0]
    q = logits + one
    q = torch.where((q == 0).all(-1, keepdim=True), one, q)
    q = q / q.detach().abs().amax(-1, keepdim=True)  # the norm cancels any factor; this one keeps squares in range
    return q / q.square().sum(-1, keepdim=True).sqrt()
