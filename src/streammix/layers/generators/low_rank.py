"""Gates for every channel of every stream, through a bottleneck."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..._checks import check_integer
from ..._parameters import assign, assign_normal, parameter_dtype
from ..._precision import full_precision
from .base import Generator, Start
from .flattened import eps_of_norm


class LowRank(Generator):
    """Logits of Gated Residual (Qwen3.8; transformers' Qwen4ExpTextGatedResidual), of the state normalised
    stream by stream:

        r_i = (1 + g_i) x_i / rms(x_i),    read = up silu(down vec(r) / n),    write = w vec(r) / n

    Args:
        dim: C.
        streams: n.
        rank: of the bottleneck.
        norm_eps: added to the mean square; None as in Flattened.
        writes: whether there are write logits.
        start: see Start; weight_std is that of all three matrices.

    Parameters:
        norm (n, C): g; down (rank, n C); up (n C, rank); write (n, n C), if there are write logits.

    Raises:
        ValueError: rank < 1.

    Call: x (..., n, C) -> r (..., n, C), read (..., n, C) and write (..., n), or r and read.
    """

    def __init__(
        self, dim: int, streams: int, rank: int, norm_eps: float | None, *, writes: bool = True, start: Start
    ) -> None:
        super().__init__()
        check_integer("rank", rank, 1)
        self.streams, self.norm_eps, self.start = streams, norm_eps, start
        dtype, width = parameter_dtype(), streams * dim
        self.norm = nn.Parameter(torch.empty(streams, dim, dtype=dtype))
        self.down = nn.Parameter(torch.empty(rank, width, dtype=dtype))
        self.up = nn.Parameter(torch.empty(width, rank, dtype=dtype))
        self.write = nn.Parameter(torch.empty(streams, width, dtype=dtype)) if writes else None
        self.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch n C"]) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(self.norm.dtype, x.dtype)
        with full_precision(x):
            wide, eps = x.to(dtype), eps_of_norm(self.norm_eps, dtype)
            r = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * (1 + self.norm.to(dtype))
            flat = r.flatten(-2)
            hidden = F.silu(F.linear(flat, self.down.to(dtype)) / self.streams)
            read = F.linear(hidden, self.up.to(dtype)).unflatten(-1, x.shape[-2:])
            if self.write is None:
                return r, read
            return r, read, F.linear(flat, self.write.to(dtype)) / self.streams

    def reset_parameters(self) -> None:
        assign(self.norm, 0.0)
        for weight in (self.down, self.up, self.write):
            if weight is not None:
                assign_normal(weight, self.start.weight_std)
