"""RMSNorm with gains that stay in float32, around dense sums."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..._parameters import AtLeastFloat32, assign, parameter_dtype
from ..._precision import full_precision
from ..generators.flattened import eps_of_norm


class Gain(AtLeastFloat32):
    """g x / rms(x), with one g or one for each of several x.

    Parameters:
        weight (C) or (ways, C).
    """

    def __init__(self, dim: int, norm_eps: float | None, start: float, ways: int | None = None) -> None:
        super().__init__()
        self.norm_eps, self.start = norm_eps, start
        self.weight = nn.Parameter(torch.empty(*(() if ways is None else (ways,)), dim, dtype=parameter_dtype()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        assign(self.weight, self.start)

    def forward(self, x: Float[Tensor, "*batch C"], way: int | None = None) -> Float[Tensor, "*batch C"]:
        gain = self.weight if way is None else self.weight[way]
        with full_precision(x):
            wide = x.to(torch.promote_types(gain.dtype, x.dtype))
            eps = eps_of_norm(self.norm_eps, wide.dtype)
            return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * gain.to(wide.dtype)).to(x.dtype)
