"""States cut into segments narrower than a branch: their weights, and how segments are combined."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..functional import full_precision
from ..manifolds.precision import parameter_dtype
from .coefficients import Coefficients, Logits


class PerSegment(Coefficients):
    """Logits from each segment by itself (VWN, arXiv 2511.11238; Frac-Connections, arXiv 2503.14125).

    With z_i = LayerNorm(h_i), row i of each matrix, and temperature tau:

        read_i = s_a tanh(z_i W_r / tau) + A_i,   write_i = s_b tanh(z_i W_w / tau) + B_i,
        H_res[:, i] = s_a tanh(z_i W_c / tau) + A_c[i, :]

    One read and one write logit a segment and tau = 1 are Hyper-Connections.

    Args:
        width: C / m, of one segment.
        segments: n.
        reads, writes: how many read (write) logits each segment has.
        temperature: tau.
        norm_eps: eps of the layer norm.

    Parameters:
        norm.weight, norm.bias (width); weight (reads + writes + n, width); bias (n reads + n writes + n^2), the mixing
        logits those of H_res, row-major; gate (2): s_a, s_b.
    """

    def __init__(self, width: int, segments: int, reads: int, writes: int, temperature: float, norm_eps: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.rows = (reads, writes, segments)
        self.sizes = tuple(segments * row for row in self.rows)
        dtype = parameter_dtype()
        self.norm = nn.LayerNorm(width, eps=norm_eps, dtype=dtype)
        self.weight = nn.Parameter(torch.empty(sum(self.rows), width, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(sum(self.sizes), dtype=dtype))
        self.gate = nn.Parameter(torch.empty(2, dtype=dtype))

    def forward(self, h: Float[Tensor, "*batch n width"]) -> Logits:
        dtype = torch.promote_types(self.weight.dtype, h.dtype)
        with full_precision(h):
            norm_weight, norm_bias = self.norm.weight.to(dtype), self.norm.bias.to(dtype)
            z = F.layer_norm(h.to(dtype), self.norm.normalized_shape, norm_weight, norm_bias, self.norm.eps)
            read, write, res = (F.linear(z, self.weight.to(dtype)) / self.temperature).tanh().split(self.rows, -1)
            read_bias, write_bias, res_bias = self.bias.to(dtype).split(self.sizes)
            s_a, s_b = self.gate.to(dtype)
            return (
                s_a * read.flatten(-2) + read_bias,
                s_b * write.flatten(-2) + write_bias,
                s_a * res.mT.flatten(-2) + res_bias,
            )

    def reset_parameters(self, bias: Tensor, weight_std: float, gate: float) -> None:
        self.norm.reset_parameters()
        with torch.no_grad():
            self.weight.normal_(std=weight_std) if weight_std else self.weight.zero_()
            self.bias.copy_(bias)
            self.gate.fill_(gate)


def combine(
    weights: Float[Tensor, "*batch a b"], parts: Sequence[Float[Tensor, "*batch _ width"]], dtype: torch.dtype
) -> Float[Tensor, "*batch a width"]:
    """weights @ (the parts one below the other), summed in float32 at least and returned in `dtype`."""
    wide = torch.promote_types(weights.dtype, dtype)
    with full_precision(weights):
        return (weights.to(wide) @ torch.cat([part.to(wide) for part in parts], -2)).to(dtype)


def run_branch(
    branch: Callable[..., Any], u: Float[Tensor, "*batch C"], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Float[Tensor, "*batch C"]:
    """branch(u, ...), which must be one tensor of u's shape.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another shape.
    """
    y = branch(u, *args, **kwargs)
    if not isinstance(y, Tensor):
        raise TypeError(f"branch: {type(branch).__name__} returned a {type(y).__name__}; accepted: one tensor")
    if y.shape != u.shape:
        raise ValueError(f"branch: {type(branch).__name__} returned shape {tuple(y.shape)}; accepted: {tuple(u.shape)}")
    return y
