"""Single-pass wiring (DeepSeek-V4.1): read weights are used one site after the one that made them."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..functional import read, write
from .hyper_connection import HyperConnection
from .segments import run_branch

State = tuple[Float[Tensor, "*batch n C"], Float[Tensor, "*batch n"]]


class SinglePassConnection(HyperConnection):
    """A site that reads with the weights of the site before it and makes those of the next (DeepSeek-V4.1):

        u = sum_j pre_j x_j,   y = branch(u),   pre', post, H_res from x,   out_i = sum_j H_res[i, j] x_j + post_i y

    Mixing, writing and the next site's reading then pass over the streams once: 2n + 2 widths are moved, not 3n + 2.
    The first pre is one-hot on stream 0; the last pre' may end the streams in place of a head.

    Arguments are HyperConnection's; recipes of connection "single-pass".

    Call: site((x, pre), *args, **kwargs) -> (out, pre').
    """

    connection = "single-pass"

    def forward(self, state: State, *args: Any, **kwargs: Any) -> State:  # type: ignore[override]
        x, pre = state
        u, finish = self.connect(x, pre)
        return finish(run_branch(self.branch, u, args, kwargs))  # type: ignore[arg-type]

    def connect(  # type: ignore[override]
        self, x: Float[Tensor, "*batch n C"], pre: Float[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch C"], Callable[[Tensor], State]]:
        """The branch's input u, and a function from the branch's output y to the new streams and the next pre."""
        following, post, res = self.coefficients(x)
        return read(x, pre), lambda y: (write(x, y, post, res), following)


def first_read(x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n"]:
    """One-hot on stream 0, in float32 at least."""
    pre = x.new_zeros(x.shape[:-1], dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.cat([torch.ones_like(pre[..., :1]), pre[..., 1:]], -1)
