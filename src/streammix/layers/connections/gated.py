"""Gated Residual: streams that are read channel by channel and never mixed."""

from jaxtyping import Float
from torch import Tensor, nn

from ... import functional
from ...manifolds import Manifold
from ...recipes import Recipe, Wiring
from ..activations import read_weights
from ..generators import LowRank, Start
from ..streams import expand
from .base import Connection, Finish, State, unmixed
from .hyper import check_width


class GatedConnection(Connection, wiring=Wiring("gated", logits=("low-rank",), endings=("gated",), anneals=True)):
    """A site that reads the normalised streams through a gate for every channel (Qwen3.8's Gated Residual).

        u = (1/n) sum_i G_i * r_i,    y = branch(u),    out_i = x_i + post_i y

    r is the state normalised stream by stream, G = read(l_read) in (0, 1) for every channel and post = write(l_write)
    for every stream, see LowRank. The end is a last read, with gates of its own. The branch has no norm of its own in
    the source, because u is made of normalised streams.

    Arguments are Connection's; recipes of connection "gated", whose manifold is "identity".

    Call: site(x, *args, **kwargs) with x (..., n, C) -> the same shape.
    """

    unmapped = "the maps of gated connections, which read by gates for every channel, are not shown"

    def build(self, manifold: str | Manifold | None) -> None:
        self.manifold = unmixed(manifold, self.recipe, self.streams)
        self.logits = gates(self.recipe, self.dim, self.streams, writes=True)

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        check_width(x, self.dim)
        return expand(x, self.streams)

    def coefficients(self, x: Float[Tensor, "*batch n C"]) -> tuple[Tensor, Tensor, Tensor]:
        """G / n (..., n, C), which the normalised streams are read by, post (..., n) and the identity (..., n, n)."""
        self.check(x)
        _, read, write = self.logits(x)
        return read_weights(self.recipe, read) / self.streams, self.write_weights(write), self.identity(write)

    def join(self, x: Tensor, *carried: Tensor) -> tuple[Float[Tensor, "*batch C"], Finish]:
        self.check(x)
        r, read, write = self.logits(x)
        post = self.write_weights(write)
        u = (read_weights(self.recipe, read) * r).mean(-2).to(x.dtype)
        return u, lambda y: functional.write(x, y, post, self.identity(post))

    def identity(self, like: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n"]:
        return self.manifold(like[..., :0])

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return GatedEnd(recipe, dim, streams)


class GatedEnd(nn.Module):
    """Ends streams by one more read: (1/n) sum_i G_i * r_i."""

    def __init__(self, recipe: Recipe, dim: int, streams: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.logits = gates(recipe, dim, streams, writes=False)

    def reset_parameters(self) -> None:
        self.logits.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch C"]:
        r, read = self.logits(x)
        return (read_weights(self.recipe, read) * r).mean(-2).to(x.dtype)


def gates(recipe: Recipe, dim: int, streams: int, *, writes: bool) -> LowRank:
    start = Start(bias=(), weight_std=recipe.weight_std)
    return LowRank(dim, streams, recipe.rank, recipe.norm_eps, writes=writes, start=start)
