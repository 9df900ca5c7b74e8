"""Frac-Connections: one state in fractions, no wider than the plain residual network's."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...recipes import Recipe, Wiring
from .base import State
from .combine import diagonal
from .generalised import GeneralisedConnection
from .hyper import check_width


class FracConnection(
    GeneralisedConnection,
    wiring=Wiring("frac", logits=("static", "flattened", "per-stream"), endings=("concatenate",), anneals=True),
):
    """A site on the m fractions h_i of one state, each of width C / m (arXiv 2503.14125).

        u_s = sum_i pre[i, s] h_i,   y = branch(u_0 | ... | u_{m-1}),   out_i = sum_j H_res[i, j] h_j + post_i y_i

    The paper's Y is pre, its A is H_res'. All start as the identity, which is the plain residual network. Fractions are
    not interchangeable: nothing has to be done to tell them apart.

    Args:
        dim: C, a multiple of m.
        streams: m.
        recipe: of connection "frac".
        The others are Connection's.

    Call: site(x, *args, **kwargs) with x (..., m, C / m) -> the same shape.
    """

    unmapped = "the maps of frac connections, between segments of streams, are not shown"

    @staticmethod
    def segments_of(recipe: Recipe, streams: int) -> int:
        return streams

    @property
    def writes(self) -> int:
        return 1

    @property
    def temperature(self) -> float:
        return 1.0

    def first_write(self) -> Float[Tensor, "n 1"]:
        return torch.ones(self.streams, 1)

    def spread(self, post: Float[Tensor, "*batch n 1"]) -> Float[Tensor, "*batch n n"]:
        return diagonal(post.squeeze(-1))

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        check_width(x, self.dim)
        return x.unflatten(-1, (self.streams, -1))

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return Concatenate()


class Concatenate(nn.Module):
    """Ends fractions: (..., m, C / m) -> (..., C)."""

    def forward(self, h: Float[Tensor, "*batch m width"]) -> Float[Tensor, "*batch C"]:
        return h.flatten(-2)
