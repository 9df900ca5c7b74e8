"""Logits that every stream, or every segment of a state, makes by itself."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..._parameters import assign, assign_normal, parameter_dtype
from ..._precision import full_precision
from .base import Generator, Start


class PerSegment(Generator):
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
        start: see Start.

    Parameters:
        norm.weight, norm.bias (width); weight (reads + writes + n, width); bias (n reads + n writes + n^2), the mixing
        logits those of H_res, row-major; gate (2): s_a, s_b.
    """

    def __init__(
        self, width: int, segments: int, reads: int, writes: int, temperature: float, norm_eps: float, *, start: Start
    ) -> None:
        super().__init__()
        self.temperature, self.start = temperature, start
        self.rows = (reads, writes, segments)
        self.sizes = tuple(segments * row for row in self.rows)
        dtype = parameter_dtype()
        self.norm = nn.LayerNorm(width, eps=norm_eps, dtype=dtype)
        self.weight = nn.Parameter(torch.empty(sum(self.rows), width, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(sum(self.sizes), dtype=dtype))
        self.gate = nn.Parameter(torch.empty(2, dtype=dtype))
        self.reset_parameters()

    def forward(self, h: Float[Tensor, "*batch n width"]) -> tuple[Tensor, Tensor, Tensor]:
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

    def reset_parameters(self) -> None:
        assign(self.norm.weight, 1.0)
        assign(self.norm.bias, 0.0)
        assign_normal(self.weight, self.start.weight_std)
        assign(self.bias, self.start.bias)
        assign(self.gate, self.start.gate)


class PerStream(PerSegment):
    """Logits from each stream by itself (HC Eq. 10-13, arXiv 2409.19606), with z_i = LayerNorm(x_i):

        read_i = s_a tanh(z_i . w_m) + A_i,   write_i = s_b tanh(z_i . w_b) + B_i,
        H_res[:, i] = s_a tanh(z_i W_r) + A_r[i, :]

    HC mixes with the transpose of its A_r; the logits here are those of H_res, row-major, n^2 of them.

    Args:
        dim: C.
        streams: n.
        norm_eps: eps of the layer norm.
        start: see Start.

    Parameters: those of PerSegment; weight (n + 2, C) holds w_m, w_b and the n columns of W_r.
    """

    def __init__(self, dim: int, streams: int, norm_eps: float, *, start: Start) -> None:
        super().__init__(dim, streams, 1, 1, 1.0, norm_eps, start=start)
