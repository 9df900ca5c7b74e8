"""Other ways to add a branch's output to a residual: functions of (output, residual), for depth_residual_fn."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .starts import Started

__all__ = ["GRUGatedResidual", "GatedResidual", "MVSplitResidualUpdate", "OrthogonalResidualUpdate"]


class GRUGatedResidual(nn.Module):
    """A GRU cell whose input is the output and whose state is the residual; both (..., D). Parameters: gru's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRUCell(dim, dim)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        width = x.shape[-1]
        return self.gru(x.reshape(-1, width), residual.reshape(-1, width)).view(x.shape)


class GatedResidual(nn.Module):
    """x + sigmoid(gate) (residual - x), the gate a projection of both. Parameters: to_learned_mix's.

    Args:
        dim: D.
        fine_gate: whether each channel has a gate of its own.
    """

    def __init__(self, dim: int, fine_gate: bool = False) -> None:
        super().__init__()
        self.to_learned_mix = nn.Linear(2 * dim, dim if fine_gate else 1)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return x.lerp(residual, self.to_learned_mix(torch.cat([x, residual], -1)).sigmoid())


class OrthogonalResidualUpdate(nn.Module):
    """Adds only what of the output is orthogonal to the residual (arXiv 2505.11881).

    Args:
        double_precision: whether the projection is computed in float64. The result has the residual's dtype.
    """

    def __init__(self, double_precision: bool = True) -> None:
        super().__init__()
        self.double_precision = double_precision

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        dtype = torch.float64 if self.double_precision else residual.dtype
        wide, output = residual.to(dtype), x.to(dtype)
        unit = F.normalize(wide, dim=-1)
        return (wide + output - (output * unit).sum(-1, keepdim=True) * unit).to(residual.dtype)


class MVSplitResidualUpdate(Started):
    """Adds what differs from the mean over the sequence (dim -2), and moves the mean itself (arXiv 2605.06169):

        residual + beta (x - mean x) + alpha (mean x - mean residual)

    A mean over a sequence sees the future: not for causal models. Parameters: alpha (D), beta (D).
    """

    alpha: nn.Parameter
    beta: nn.Parameter

    def __init__(self, dim: int, init_alpha: float = 0.0, init_beta: float = 0.03, **kwargs: Any) -> None:
        super().__init__()
        self.start("alpha", init_alpha, (dim,))
        self.start("beta", init_beta, (dim,))

    def prepare(self, residual: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The branch's input, the residual, and nothing further."""
        return residual, residual, {}

    def forward(self, x: Tensor, residual: Tensor, **kwargs: Any) -> Tensor:
        mean, kept = x.mean(-2, keepdim=True), residual.mean(-2, keepdim=True)
        return residual + (x - mean) * self.beta + (mean - kept) * self.alpha
