"""The package's norm of each stream by itself, and the projection that follows it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._precision import full_precision
from ...layers.generators.per_stream_rms import rows_projected
from .starts import Started

LEAST_NORM = 1e-12  # of F.normalize


class RMSNorm(Started):
    """x / |x| * sqrt(d) * (gamma + 1), over the last dimension. Parameters: gamma (d), zero at first."""

    axis = -1
    gamma: nn.Parameter

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.start("gamma", 0.0, (dim,))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=self.axis) * self.scale * (self.gamma + 1)


def projected(x: Tensor, gamma: Tensor, weight: Tensor, dim: int) -> Tensor:
    """RMSNorm(x) @ weight, in float32 at least: x (..., rows, d), its rows in `dim`, weight (d, k) -> (..., rows, k).

    gamma is multiplied into the weight. |x| is sqrt(|x|^2 + 1e-24) where the package has max(|x|, 1e-12).
    """
    dtype = torch.promote_types(torch.promote_types(weight.dtype, x.dtype), torch.float32)
    with full_precision(x):
        scaled = scaled_weight(gamma, weight, dtype)
    return rows_projected(x, scaled, LEAST_NORM**2 / x.shape[-1]).movedim(dim, -2)


def scaled_weight(gamma: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """gamma (d), weight (d, k) -> ((gamma + 1) weight)' (k, d)."""
    return (weight.to(dtype) * (gamma.to(dtype).flatten() + 1).unsqueeze(-1)).mT.contiguous()
