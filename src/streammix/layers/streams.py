"""Where streams begin and end."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..functional import read
from .coefficients import Flattened

How = Literal["sum", "mean", "head"]


def expand(x: Float[Tensor, "*batch C"], streams: int) -> Float[Tensor, "*batch n C"]:
    """Start n streams as copies of a state: (..., C) -> (..., n, C)   (HC, arXiv 2409.19606, Sec. 2).

    Raises:
        ValueError: x is a scalar or streams < 1.
    """
    if x.ndim < 1:
        raise ValueError("x: got a scalar; accepted: (..., C)")
    if isinstance(streams, bool) or not isinstance(streams, int) or streams < 1:
        raise ValueError(f"streams: got {streams!r}; accepted: integers >= 1")
    return x.unsqueeze(-2).expand(*x.shape[:-1], streams, x.shape[-1]).contiguous()


class Collapse(nn.Module):
    """End the streams in one state: (..., n, C) -> (..., C).

        sum:   sum_j x_j                       (HC)
        mean:  (1/n) sum_j x_j
        head:  sum_j (sigmoid(gate (vec(x) phi_j) / rms(vec x) + b_j) + eps) x_j      (DeepSeek-V4's hc_head)

    Args:
        dim: C.
        streams: n.
        how: "sum", "mean" or "head".
        norm_eps, read_eps: eps of the head's norm (None as in a recipe) and of its weights; DeepSeek-V4's by default.

    Raises:
        ValueError: how is none of the three. At the call: streams that are not (..., n, C).
    """

    def __init__(
        self, dim: int, streams: int = 4, how: How = "sum", *, norm_eps: float | None = 1e-6, read_eps: float = 1e-6
    ) -> None:
        super().__init__()
        if how not in get_args(How):
            raise ValueError(f"how: got {how!r}; accepted: {', '.join(get_args(How))}")
        self.dim, self.streams, self.how, self.read_eps = dim, streams, how, read_eps
        self.head = Flattened(dim, streams, (streams,), norm_eps) if how == "head" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """DeepSeek-V4's start: weights N(0, 0.02^2), zero biases, gate one."""
        if self.head is not None:
            self.head.reset_parameters(torch.zeros(self.streams), weight_std=0.02, gate=1.0)

    def forward(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch C"]:
        if x.ndim < 2 or x.shape[-2:] != (self.streams, self.dim):
            raise ValueError(f"x: got shape {tuple(x.shape)}; accepted: (..., {self.streams}, {self.dim})")
        if self.head is not None:
            (logits,) = self.head(x)
            return read(x, logits.sigmoid() + self.read_eps)
        return x.sum(-2) if self.how == "sum" else x.mean(-2)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, streams={self.streams}, how={self.how!r}"
