"""Scores of states by a learned query: attention over streams, or over depth."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..._parameters import assign_normal, parameter_dtype
from .base import Generator, Start
from .flattened import eps_of_norm
from .per_stream_rms import rows_projected


class Query(Generator):
    """A score for each state, from that state alone:

        score_i = scale (w . x_i / rms(x_i)),    rms(v) = sqrt(mean v^2 + norm_eps)

    The norm has no weight of its own: w absorbs it.

    Args:
        dim: C.
        norm_eps: added to the mean square; None as in Flattened.
        scale: of the scores.
        start: see Start; weight_std is that of w.

    Parameters:
        weight (C): w.

    Call: one or more tensors x (..., rows, C) -> scores (..., rows of all), in float32 at least.
    """

    def __init__(self, dim: int, norm_eps: float | None, scale: float = 1.0, *, start: Start) -> None:
        super().__init__()
        self.norm_eps, self.scale, self.start = norm_eps, scale, start
        self.weight = nn.Parameter(torch.empty(dim, dtype=parameter_dtype()))
        self.reset_parameters()

    def forward(self, *x: Float[Tensor, "*batch _ C"]) -> Float[Tensor, "*batch rows"]:  # type: ignore[override]
        dtype = torch.promote_types(self.weight.dtype, x[0].dtype)
        weight, eps = self.weight.unsqueeze(0), eps_of_norm(self.norm_eps, dtype)
        parts = [rows_projected(rows, weight, eps).squeeze(-1) for rows in x]
        scores = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return scores if self.scale == 1 else scores * self.scale

    def reset_parameters(self) -> None:
        assign_normal(self.weight, self.start.weight_std)
