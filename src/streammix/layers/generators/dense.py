"""Weights of all earlier outputs, made of the last one: MUDDFormer's."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..._parameters import assign, assign_normal, parameter_dtype
from ..._precision import full_precision
from .base import Generator, Start
from .flattened import eps_of_norm
from .per_stream_rms import rows_projected


class Dense(Generator):
    """Weights of the sources X_0 ... X_i for each of several sums of them (MUDDFormer Eq. 6, arXiv 2502.12170):

        A = GELU(x / rms(x) W1) W2 + a,    x = X_i,    rms(v) = sqrt(mean v^2 + norm_eps)

    The hidden width is that of the output, as in the paper's App. B; GELU is the exact one.

    Args:
        dim: C.
        sources: i + 1.
        ways: how many sums, each with weights of its own.
        norm_eps: added to the mean square; None as in Flattened.
        start: see Start; weight_std is that of W2. W1 starts at N(0, 1/C).

    Parameters:
        down (ways sources, C): W1'; up (ways sources, ways sources): W2'; bias (ways sources): a, way by way.

    Call: X_i as a state of one row, (..., 1, C) -> (..., ways sources), in float32 at least.
    """

    def __init__(self, dim: int, sources: int, ways: int, norm_eps: float | None, *, start: Start) -> None:
        super().__init__()
        self.norm_eps, self.start = norm_eps, start
        dtype, size = parameter_dtype(), ways * sources
        self.down = nn.Parameter(torch.empty(size, dim, dtype=dtype))
        self.up = nn.Parameter(torch.empty(size, size, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(size, dtype=dtype))
        self.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch 1 C"]) -> tuple[Float[Tensor, "*batch weights"]]:
        dtype = torch.promote_types(self.down.dtype, x.dtype)
        with full_precision(x):
            hidden = rows_projected(x, self.down, eps_of_norm(self.norm_eps, dtype)).squeeze(-2)
            return (F.linear(F.gelu(hidden), self.up.to(dtype), self.bias.to(dtype)),)

    def reset_parameters(self) -> None:
        assign_normal(self.down, self.down.shape[1] ** -0.5)
        assign_normal(self.up, self.start.weight_std)
        assign(self.bias, self.start.bias)
