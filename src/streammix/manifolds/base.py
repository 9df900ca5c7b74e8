"""The interface of a manifold: a feasible set of mixing matrices and a differentiable map from logits onto it."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .._checks import check_floating, check_integer
from .._parameters import AtLeastFloat32
from .._precision import autocast_enabled, full_precision
from ..ops import sharding


@dataclass(frozen=True)
class Guarantees:
    """What holds for every matrix of the set, whatever the logits, to rounding.

    rows, columns: every row (column) sums to one.
    nonnegative: no entry is negative.
    nonexpansive: the spectral norm is at most one.
    orthogonal: H' H = I.
    """

    rows: bool = False
    columns: bool = False
    nonnegative: bool = False
    nonexpansive: bool = False
    orthogonal: bool = False


class Manifold(AtLeastFloat32):
    """A feasible set for H_res. Subclasses give num_logits, guarantees, forward and identity_logits.

    Half-precision logits give a float32 matrix, unless the subclass says otherwise; all others one of their own dtype.

    Args:
        streams: n, the number of streams, >= 1.

    Attributes:
        num_logits: how many logits make one matrix.
        guarantees: what every matrix of the set satisfies.
        projects: whether forward is `streammix.birkhoff` of the logits as n x n matrices, row-major, with `tol`: its
            operator may then stand in for the call.
        mixing_rule: the rounds, start, columns_last, transposed and tol or eps by which the operators on whole sites
        make
            these matrices (ops/eager/mixed_site.py), where they can.
        entrywise: whether the logits are those of n x n entries, row-major, so that the matrix is the nearer to the
            identity the further those off the diagonal are below those on it. A recipe may then say where they start.
        takes_sharded: whether forward takes DTensors as they are, because it has no tables of numbers. Otherwise each
            device maps its own tokens, unless there are parameters, which are DTensors then.
    """

    num_logits: int
    guarantees: Guarantees
    projects: bool = False
    entrywise: bool = False
    tol: float | None = None
    takes_sharded: bool = False
    mixing_rule: tuple[int, int, bool, bool, float] | None = None

    def __init__(self, streams: int) -> None:
        super().__init__()
        check_integer("streams", streams, 1)
        self.streams = streams

    def __call__(self, logits: Float[Tensor, "*batch num_logits"]) -> Float[Tensor, "*batch n n"]:
        """`forward`, which autocast does not reach: where it is on, half-precision logits are widened to float32."""
        if sharding.is_sharded(logits) and not (self.takes_sharded or any(True for _ in self.parameters())):
            return sharding.by_tokens(self, logits)
        if not isinstance(logits, Tensor) or not autocast_enabled(logits):
            return super().__call__(logits)
        with full_precision(logits):
            return super().__call__(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits)

    def forward(self, logits: Float[Tensor, "*batch num_logits"]) -> Float[Tensor, "*batch n n"]:
        """(..., num_logits) -> (..., n, n)."""
        raise NotImplementedError

    def identity_logits(self) -> Float[Tensor, " num_logits"]:
        """Logits from which training starts: those of the identity, or so close to it that they still learn."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Set the manifold's own parameters and constants, where it has any, to their start."""
        for part in self.modules():
            if part is not self and isinstance(part, Manifold):
                part.reset_parameters()

    def contains(self, H: Float[Tensor, "*batch n n"], atol: float = 1e-5) -> Bool[Tensor, "*batch"]:
        """Whether each matrix satisfies the guarantees of the set up to atol."""
        H = H.double()
        ok = H.isfinite().all(-1).all(-1)
        H = torch.where(ok[..., None, None], H, 0)
        if self.guarantees.rows:
            ok = ok & ((H.sum(-1) - 1).abs() <= atol).all(-1)
        if self.guarantees.columns:
            ok = ok & ((H.sum(-2) - 1).abs() <= atol).all(-1)
        if self.guarantees.nonnegative:
            ok = ok & (-atol <= H).all(-1).all(-1)
        if self.guarantees.nonexpansive:
            ok = ok & (torch.linalg.matrix_norm(H, 2) <= 1 + atol)
        if self.guarantees.orthogonal:
            gram_error = H.mT @ H - torch.eye(self.streams, dtype=H.dtype, device=H.device)
            ok = ok & (gram_error.abs() <= atol).all(-1).all(-1)
        return ok

    def extra_repr(self) -> str:
        return f"streams={self.streams}"

    def _square(self, logits: Tensor) -> Tensor:
        """Logits as n x n matrices, row-major, for the sets that use n^2 of them."""
        self._check(logits)
        n = self.streams
        return logits.reshape(*logits.shape[:-1], n, n)

    def _wide(self, logits: Tensor) -> Tensor:
        """The logits, checked, in float32 at least; all of a matrix's NaN if one of them is not finite."""
        self._check(logits)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        finite = (logits.detach() * 0).sum(-1, keepdim=True) == 0
        return torch.where(finite, logits, torch.nan)

    def _check(self, logits: Tensor) -> None:
        check_floating("logits", logits)
        if logits.ndim < 1 or logits.shape[-1] != self.num_logits:
            raise ValueError(
                f"logits: got shape {tuple(logits.shape)}; {type(self).__name__}(streams={self.streams}) accepts"
                f" (..., {self.num_logits})"
            )


#: e^-8 against 1: close to the identity (0.999 on the diagonal at n = 4), yet its gradient is far from vanishing.
OFF_DIAGONAL = -8.0


def near_identity_square(n: int, off_diagonal: float = OFF_DIAGONAL) -> Tensor:
    """n^2 logits, 0 on the diagonal and -8 off it: the start that implementers of mHC have settled on."""
    return (off_diagonal * (1 - torch.eye(n))).flatten()
