"""Frac-Connections: one state in fractions, no wider than the plain residual network's."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..recipes import Recipe
from .generalised import GeneralisedConnection
from .segments import combine


class FracConnection(GeneralisedConnection):
    """A site on the m fractions h_i of one state, each of width C / m (arXiv 2503.14125).

        u_s = sum_i pre[i, s] h_i,   y = branch(u_0 | ... | u_{m-1}),   out_i = sum_j H_res[i, j] h_j + post_i y_i

    The paper's Y is pre, its A is H_res'. All start as the identity, which is the plain residual network. Fractions are
    not interchangeable: nothing has to be done to tell them apart.

    Args:
        branch: maps (..., C) to (..., C).
        dim: C, a multiple of m.
        streams: m.
        recipe: of connection "frac".
        site: index of this site in the network.

    Call: site(h, *args, **kwargs) with h (..., m, C / m) -> the same shape.
    """

    def __init__(self, branch: Callable[..., Any], dim: int, streams: int, recipe: Recipe, site: int) -> None:
        super().__init__(branch, dim, streams, recipe, site, segments=streams)

    @property
    def writes(self) -> int:
        return 1

    @property
    def temperature(self) -> float:
        return 1.0

    def first_write(self) -> Float[Tensor, "n 1"]:
        return torch.ones(self.streams, 1)

    def write(
        self,
        h: Float[Tensor, "*batch n width"],
        y: Float[Tensor, "*batch n width"],
        post: Float[Tensor, "*batch n 1"],
        res: Float[Tensor, "*batch n n"],
    ) -> Float[Tensor, "*batch n width"]:
        return combine(torch.cat([res, post.squeeze(-1).diag_embed()], -1), [h, y], h.dtype)
