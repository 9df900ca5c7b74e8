"""mHC's generator: logits from the whole state, normalised and projected."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ... import ops
from ..._parameters import assign, assign_normal, parameter_dtype
from ..._precision import computing_dtype, full_precision
from ...ops.eager.site import inverse_rms
from .base import Generator, Start


class Flattened(Generator):
    """Logits from the whole state (mHC Eq. 7, arXiv 2512.24880), one gate for each group of logits:

        logits = gate * (vec(x) phi') / rms(vec x) + b,    rms(v) = sqrt(mean v^2 + norm_eps)

    The norm has no weight of its own: phi absorbs it.

    Args:
        dim: C.
        streams: n.
        sizes: how many logits each group has.
        norm_eps: added to the mean square. None: torch's default for rms_norm, the computing dtype's eps.
        frozen_gate: the last group's gate, if it is to be this constant instead of a parameter.
        start: see Start.

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
        start: Start,
    ) -> None:
        super().__init__()
        self.sizes, self.start = tuple(sizes), start
        self.norm_eps = norm_eps
        self.frozen_gate = frozen_gate
        dtype = parameter_dtype()
        learned = self.sizes if frozen_gate is None else self.sizes[:-1]
        self.weight = nn.Parameter(torch.empty(sum(sizes), streams * dim, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(sum(sizes), dtype=dtype))
        self.gate = nn.Parameter(torch.empty(sum(size > 0 for size in learned), dtype=dtype))
        self.reset_parameters()

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
            return ops.coefficients(x, weight, norm_eps)[0]
        flat = x.flatten(-2).to(weight.dtype)
        return F.linear(flat, weight) * inverse_rms(flat, norm_eps).unsqueeze(-1)

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, float, float] | None:
        """weight, gate, bias, the frozen gate (0: none) and the norm's eps, as the operators on whole sites take them;
        None where those do not serve this state or these parameters.

        Parameters are read from the dictionary that torch keeps them in, because for one token nn.Module's attribute
        access costs as much as the arithmetic.
        """
        own = self._parameters
        weight, gate, bias = own.get("weight"), own.get("gate"), own.get("bias")
        if weight is None or gate is None or bias is None:  # replaced by something else, which attributes lead to
            return None
        dtype = weight.dtype
        if dtype != x.dtype:
            dtype = torch.promote_types(dtype, x.dtype)
        if not one_pass(x, dtype):
            return None
        norm_eps = eps_of_norm(self.norm_eps, dtype)
        if dtype != weight.dtype:
            return weight.to(dtype), gate.to(dtype), bias.to(dtype), self.frozen_gate or 0.0, norm_eps
        return weight, gate, bias, self.frozen_gate or 0.0, norm_eps

    def reset_parameters(self) -> None:
        assign_normal(self.weight, self.start.weight_std)
        assign(self.bias, self.start.bias)
        assign(self.gate, self.start.gate)


def eps_of_norm(norm_eps: float | None, computing: torch.dtype) -> float:
    """norm_eps, or for None torch's default for rms_norm."""
    return torch.finfo(computing).eps if norm_eps is None else norm_eps


def one_pass(x: Tensor, computing: torch.dtype) -> bool:
    """Whether the operators on whole sites take these streams: not under torch.func's transforms, nor when parameters
    are wider than the streams' computing type."""
    return computing == computing_dtype(x.dtype) and not torch._C._are_functorch_transforms_active()
