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

    def rows(self, dtype: torch.dtype) -> Float[Tensor, "n_and_1 width"]:
        """What `ops.coefficients` multiplies the state by for `scores`: rows of W less their mean, to which the norm's
        own mean makes no difference, and a row that gives that mean."""
        assert self.weight is not None
        weight = self.weight.to(dtype)
        mean = torch.full_like(weight[:1], 1 / weight.shape[1])
        return torch.cat([weight - weight.mean(-1, keepdim=True), mean])

    def scores(self, projected: Float[Tensor, "*batch n_and_1"]) -> Float[Tensor, "*batch n"]:
        """The scores from that product, which comes divided by the root of mean square + eps.

        The variance is mean square less squared mean, which costs digits where the mean is many deviations.
        """
        bias, mean = self.bias.to(projected.dtype), projected[..., -1:]
        variance = (1 - mean.square()).clamp(min=torch.finfo(mean.dtype).eps)
        return (projected[..., :-1] * variance.rsqrt() + bias).sigmoid()

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
