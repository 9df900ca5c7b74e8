"""From the state to logits: the generators of the papers. Always in float32 at least, whatever the streams' dtype.

Each generator maps x (..., n, C) to the read logits (..., n), the write logits (..., n) and the num_res mixing logits.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..functional import computing_dtype, full_precision
from ..manifolds.precision import AtLeastFloat32, parameter_dtype
from ..ops import current_for
from ..ops.eager.site import inverse_rms

Logits = tuple[Tensor, Tensor, Tensor]


class Coefficients(AtLeastFloat32):
    """A generator of logits."""

    def reset_parameters(self, bias: Tensor, weight_std: float, gate: float) -> None:
        """Biases as given, projection weights N(0, weight_std^2), every gate `gate`."""
        raise NotImplementedError


class Static(Coefficients):
    """Logits that do not depend on the state: b."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.bias = nn.Parameter(torch.empty(sum(sizes), dtype=parameter_dtype()))

    def forward(self, x: Float[Tensor, "*batch n C"]) -> tuple[Tensor, ...]:
        bias = self.bias.to(torch.promote_types(self.bias.dtype, x.dtype))
        return tuple(b.expand(*x.shape[:-2], size) for b, size in zip(bias.split(self.sizes), self.sizes))

    def reset_parameters(self, bias: Tensor, weight_std: float, gate: float) -> None:
        with torch.no_grad():
            self.bias.copy_(bias)


class Flattened(Coefficients):
    """Logits from the whole state (mHC Eq. 7, arXiv 2512.24880), one gate for each group of logits:

        logits = gate * (vec(x) phi') / rms(vec x) + b,    rms(v) = sqrt(mean v^2 + norm_eps)

    The norm has no weight of its own: phi absorbs it.

    Args:
        dim: C.
        streams: n.
        sizes: how many logits each group has.
        norm_eps: added to the mean square. None: torch's default for rms_norm, the computing dtype's eps.
        frozen_gate: the last group's gate, if it is to be this constant instead of a parameter.

    Parameters:
        weight (sum(sizes), n C), columns ordered stream by stream; bias (sum(sizes)); gate (number of groups that have
        logits and a gate to learn).
    """

    def __init__(
        self,
        dim: int,
        streams: int,
        sizes: Sequence[int],
        norm_eps: float | None,
        *,
        frozen_gate: float | None = None,
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.norm_eps = norm_eps
        self.frozen_gate = frozen_gate
        dtype = parameter_dtype()
        learned = self.sizes if frozen_gate is None else self.sizes[:-1]
        self.weight = nn.Parameter(torch.empty(sum(sizes), streams * dim, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(sum(sizes), dtype=dtype))
        self.gate = nn.Parameter(torch.empty(sum(size > 0 for size in learned), dtype=dtype))

    def forward(self, x: Float[Tensor, "*batch n C"]) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(self.weight.dtype, x.dtype)
        with full_precision(x):
            projected = self._projected(x, self.weight.to(dtype))
            gates = iter([*self.gate.to(dtype), self.frozen_gate])
            return tuple(
                next(gates) * m + b if m.shape[-1] else m
                for m, b in zip(projected.split(self.sizes, -1), self.bias.to(dtype).split(self.sizes))
            )

    def _projected(self, x: Tensor, weight: Tensor) -> Tensor:
        norm_eps = eps_of_norm(self.norm_eps, weight.dtype)
        if one_pass(x, weight.dtype):
            return current_for(x, x.shape[-2]).coefficients(x, weight, norm_eps)[0]
        flat = x.flatten(-2).to(weight.dtype)
        return F.linear(flat, weight) * inverse_rms(flat, norm_eps).unsqueeze(-1)

    def reset_parameters(self, bias: Tensor, weight_std: float, gate: float) -> None:
        with torch.no_grad():
            self.weight.normal_(std=weight_std) if weight_std else self.weight.zero_()
            self.bias.copy_(bias)
            self.gate.fill_(gate)


def eps_of_norm(norm_eps: float | None, computing: torch.dtype) -> float:
    """norm_eps, or for None torch's default for rms_norm."""
    return torch.finfo(computing).eps if norm_eps is None else norm_eps


def one_pass(x: Tensor, computing: torch.dtype) -> bool:
    """Whether the operators on whole sites take these streams: not under torch.func's transforms, nor when parameters
    are wider than the streams' computing type."""
    return computing == computing_dtype(x.dtype) and not torch._C._are_functorch_transforms_active()
