"""Logits that every stream makes by itself of its RMS norm: the generator of the PyPI package hyper-connections."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ... import ops
from ..._parameters import assign, assign_normal, parameter_dtype
from ..._precision import full_precision
from .base import Generator, Start
from .flattened import one_pass


class PerStreamRMS(Generator):
    """Logits from each stream by itself, with z_i = x_i / rms(x_i), rms(v) = sqrt(mean v^2 + norm_eps):

        read_i = gate act(z_i . w_read) + b,   write_i = gate act(z_i . w_write) + b,
        H_res[:, i] = gate act(z_i W_res) + b

    act is tanh or the identity. The norm has no weight of its own: w and W absorb it.

    Args:
        dim: C.
        streams: n.
        norm_eps: added to the mean square.
        tanh: whether act is tanh.
        transposed: whether the manifold takes the mixing logits of the transpose, so that stream i makes row i of them.
        start: see Start.

    Parameters:
        weight (n + 2, C): w_read, w_write and the n columns of W_res; bias (2n + n^2), the mixing logits row-major in
        the manifold's orientation; gate (3): of reads, writes and mixing.
    """

    def __init__(self, dim: int, streams: int, norm_eps: float, *, tanh: bool, transposed: bool, start: Start) -> None:
        super().__init__()
        self.norm_eps, self.tanh, self.transposed, self.start = norm_eps, tanh, transposed, start
        self.sizes = (streams, streams, streams**2)
        dtype = parameter_dtype()
        self.weight = nn.Parameter(torch.empty(streams + 2, dim, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(sum(self.sizes), dtype=dtype))
        self.gate = nn.Parameter(torch.empty(3, dtype=dtype))
        self.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch n C"]) -> tuple[Tensor, Tensor, Tensor]:
        made = rows_projected(x, self.weight, self.norm_eps)
        made = made.tanh() if self.tanh else made
        read_bias, write_bias, mix_bias = self.bias.to(made.dtype).split(self.sizes)
        read, write, mix = self.gate.to(made.dtype)
        of_mix = made[..., 2:] if self.transposed else made[..., 2:].mT
        return (
            read * made[..., 0] + read_bias,
            write * made[..., 1] + write_bias,
            mix * of_mix.flatten(-2) + mix_bias,
        )

    def reset_parameters(self) -> None:
        assign_normal(self.weight, self.start.weight_std)
        assign(self.bias, self.start.bias)
        assign(self.gate, self.start.gate)

    def extra_repr(self) -> str:
        return f"tanh={self.tanh}"


def rows_projected(
    x: Float[Tensor, "*batch rows d"], weight: Float[Tensor, "k d"], norm_eps: float
) -> Float[Tensor, "*batch rows k"]:
    """Every row of x over its own rms, times weight', in float32 at least; the normalised rows are never made."""
    dtype = torch.promote_types(torch.promote_types(weight.dtype, x.dtype), torch.float32)
    with full_precision(x):
        weight = weight.to(dtype)
        if one_pass(x, dtype):
            return ops.coefficients(x.unsqueeze(-2), weight, norm_eps)[0]
        wide = x.to(dtype)
        return F.linear(wide, weight) * (wide.square().mean(-1, keepdim=True) + norm_eps).rsqrt()
