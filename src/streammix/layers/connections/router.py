"""Which streams of a sparse connection a token updates."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..._parameters import AtLeastFloat32, assign, assign_normal, parameter_dtype
from ..._precision import full_precision

SCORE_LOGIT = 1.0  # of every stream in a new router: a score of sigmoid(1) = 0.73
SCORE_SPREAD = 3e-6  # of a new router's logits over tokens and streams: enough to send tokens to different streams,
# too little to change the sum of the streams


class Router(AtLeastFloat32):
    """Scores of the streams from the whole state: sigmoid(LayerNorm(vec x) W + b), or sigmoid(b) if static.

    The norm has no parameters of its own: W and b absorb them.
    """

    def __init__(self, dim: int, streams: int, norm_eps: float, *, dynamic: bool) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        dtype = parameter_dtype()
        self.weight = nn.Parameter(torch.empty(streams, streams * dim, dtype=dtype)) if dynamic else None
        self.bias = nn.Parameter(torch.empty(streams, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            assign(self.bias, SCORE_LOGIT)
            assign_normal(self.weight, SCORE_SPREAD * self.weight.shape[1] ** -0.5)
        else:
            assign_normal(self.bias, SCORE_SPREAD, mean=SCORE_LOGIT)

    def forward(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n"]:
        dtype = torch.promote_types(self.bias.dtype, x.dtype)
        with full_precision(x):
            bias = self.bias.to(dtype)
            if self.weight is None:
                return bias.sigmoid().expand(*x.shape[:-2], len(bias))
            flat = x.flatten(-2).to(dtype)
            return F.linear(
                F.layer_norm(flat, flat.shape[-1:], eps=self.norm_eps), self.weight.to(dtype), bias
            ).sigmoid()
