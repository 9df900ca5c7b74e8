"""Single-pass wiring (DeepSeek-V4.1): read weights are used one site after the one that made them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...functional import read
from ...ops import operators_for
from ...recipes import Recipe, Wiring
from ..streams import Collapse, expand
from .base import Finish
from .hyper import HyperConnection, Opened, check_width

Streams = tuple[Float[Tensor, "*batch n C"], Float[Tensor, "*batch n"]]


class Carrying(NamedTuple):
    """A site between its read and its write, and the read weights that it made for the next."""

    opened: Opened
    following: Float[Tensor, "*batch n"]


class SinglePassConnection(
    HyperConnection,
    wiring=Wiring(
        "single-pass",
        logits=("static", "flattened", "per-stream", "cp"),
        endings=("sum", "mean", "head", "carried"),
        authors_start=True,
        anneals=True,
    ),
):
    """A site that reads with the weights of the site before it and makes those of the next (DeepSeek-V4.1):

        u = sum_j pre_j x_j,   y = branch(u),   pre', post, H_res from x,   out_i = sum_j H_res[i, j] x_j + post_i y

    Mixing, writing and the next site's reading then pass over the streams once: 2n + 2 widths are moved, not 3n + 2.
    The first pre is one-hot on stream 0; the last pre' may end the streams in place of a head.

    Arguments are HyperConnection's; recipes of connection "single-pass".

    Call: site((x, pre), *args, **kwargs) -> (out, pre'), or ((out, pre'), *extra outputs of the branch).
    """

    carries = True

    def begin(self, x: Float[Tensor, "*batch C"]) -> Streams:
        check_width(x, self.dim)
        x = expand(x, self.streams)
        return x, first_read(x)

    def join(self, x: Float[Tensor, "*batch n C"], *carried: Tensor) -> tuple[Float[Tensor, "*batch C"], Finish]:
        (pre,) = carried
        following, post, res = self.coefficients(x)
        return self.read(x, pre), lambda y: (self.write(x, y, post, res), following)

    def state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return self.rows, (self.streams,)

    def maps(self, x: Tensor, *carried: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, post, res = self.coefficients(x)
        return carried[0], post, res

    def open_carried(self, state: Streams) -> Carrying:
        """The site up to its branch."""
        x, pre = state
        following, post, res = self.coefficients(x)
        return Carrying(Opened(x, self.read(x, pre), post, res), following)

    def open_after_carried(self, before: Carrying, y: Tensor) -> Carrying:
        """`open_carried` of the streams that the branch output y leaves at the site before, in one pass over them where
        the backend has one."""
        (x, u, post, res), pre = before
        arguments = self._operands(x)
        rule = self._mixing_rule(x)
        if arguments is None or rule is None or y.shape != u.shape or y.dtype != x.dtype:
            return self.open_carried((self.write(x, y, post, res), pre))
        made = operators_for(x, self.streams).write_carried_site(x, y, post, res, pre, *arguments, *rule)
        state, u, following, post, res, *_ = made
        return Carrying(Opened(state, u, self.posts(post, res), res), following)

    @property
    def fuses(self) -> bool:
        return self._unwatched(SinglePassConnection)

    def activated(self, finish: Finish) -> Finish:
        assert self.activation is not None
        activation = self.activation

        def finished(y: Tensor) -> Streams:
            x, following = finish(y)
            return activation(x), following

        return finished

    @property
    def rebuilds(self) -> bool:
        return False

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return Carried() if recipe.collapse == "carried" else CollapseCarried(dim, streams, recipe)


def first_read(x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n"]:
    """One-hot on stream 0, in float32 at least."""
    pre = x.new_zeros(x.shape[:-1], dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.cat([torch.ones_like(pre[..., :1]), pre[..., 1:]], -1)


class Carried(nn.Module):
    """Ends single-pass streams by the read weights the last site made: sum_j pre_j x_j."""

    def forward(self, x: Streams) -> Float[Tensor, "*batch C"]:
        return read(*x)


class CollapseCarried(Collapse):
    """Ends single-pass streams as Collapse does; the last read weights are not used."""

    def forward(self, x: Streams) -> Float[Tensor, "*batch C"]:  # type: ignore[override]
        return super().forward(x[0])
