"""Heads: groups of channels with coefficients of their own."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ... import functional
from ..._checks import check_floating, is_integer
from ...manifolds import Manifold
from ...recipes import Recipe, Wiring
from .. import generators, initialisation
from ..activations import read_weights
from ..generators import Start
from ..streams import Collapse, expand
from .base import Connection, State, manifold_of
from .combine import check_output
from .hyper import check_width


class MultiHeadConnection(
    Connection,
    wiring=Wiring(
        "multi-head", logits=("static", "flattened"), endings=("sum", "mean", "head"), options=("heads",), anneals=True
    ),
):
    """A site that reads, writes and mixes the streams of each of h groups of channels by coefficients of its own.

        u^g = sum_j pre^g_j x^g_j,   y = branch(u^0 | ... | u^h-1),   out^g_i = sum_j H_res^g[i, j] x^g_j + post^g_i y^g

    x^g being the streams' channels from g C / h up to (g + 1) C / h, g = 0 .. h - 1: multi-head mHC, of the repository
    marcoshernanz/multi-head-mhc (REPORT.md, design A). The coefficients of all heads are made of the whole normalised
    state. On vec x the mix is a block-diagonal matrix: what the manifold guarantees of H_res, such as a norm of at most
    one, holds for it as well.

    A state is (..., h, n, C / h), so that heads are one more dimension of the batch to all that knows streams: traces
    and diagnostics have a matrix for every head of every token.

    Args:
        dim: C, a multiple of h.
        streams: n.
        recipe: of connection "multi-head". Its connection_options give `heads`: h.
        The others are Connection's.

    Call: site(x, *args, **kwargs) with x (..., h, n, C / h) -> the same shape.
    """

    def build(self, manifold: str | Manifold | None) -> None:
        self.heads, self.width = heads_of(self.recipe, self.dim)
        self.manifold = manifold_of(manifold, self.recipe, self.streams)
        sizes = [self.heads * size for size in self.sizes]
        start = self.starts(self.heads, self.heads, self.heads)
        self.logits = generators.make(self.recipe, self.width, self.heads * self.streams, sizes, start)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many read, write and mix logits a head has."""
        return self.streams, self.streams, self.manifold.num_logits

    def starts(self, *heads: int) -> Start:
        """The start of read, write and mix logits, each for so many heads that are alike."""
        with torch.device("cpu"):
            biases = initialisation.biases(self.recipe, self.streams, self.site, self.manifold.identity_logits())
            parts = [part.repeat(count) for part, count in zip(biases.split(self.sizes), heads)]
            return Start.at(torch.cat(parts), self.recipe.weight_std, self.recipe.gate)

    @property
    def rows(self) -> tuple[int, int]:
        return self.streams, self.width

    def state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.heads, *self.rows),)

    def check(self, x: Tensor) -> None:
        shape = (self.heads, *self.rows)
        if x.ndim < 3 or x.shape[-3:] != shape:
            raise ValueError(f"x: got shape {tuple(x.shape)}; accepted: (..., {', '.join(map(str, shape))})")
        check_floating("x", x)

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        check_width(x, self.dim)
        return expand(x.unflatten(-1, (self.heads, self.width)), self.streams)

    def coefficients(
        self, x: Float[Tensor, "*batch h n width"]
    ) -> tuple[Float[Tensor, "*batch h n"], Float[Tensor, "*batch h n"], Float[Tensor, "*batch h n n"]]:
        """pre, post and H_res of every head, in float32 at least."""
        self.check(x)
        pre, post, mix = (
            part.unflatten(-1, (self.heads, size)) for part, size in zip(self.logits(x.flatten(-3, -2)), self.sizes)
        )
        return read_weights(self.recipe, pre), self.write_weights(post), self.manifold(mix)

    def read(self, x: Float[Tensor, "*batch h n width"], pre: Float[Tensor, "*batch h n"]) -> Float[Tensor, "*batch C"]:
        return functional.read(x, pre).flatten(-2)

    def write(
        self,
        x: Float[Tensor, "*batch h n width"],
        y: Float[Tensor, "*batch C"],
        post: Float[Tensor, "*batch h n"],
        res: Float[Tensor, "*batch h n n"],
    ) -> Float[Tensor, "*batch h n width"]:
        check_output(self.branch, y, x.shape[:-3], self.dim)
        return functional.write(x, y.unflatten(-1, (self.heads, self.width)), post, res)

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return JoinHeads(dim, streams, recipe)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, heads={self.heads}"


class JoinHeads(Collapse):
    """Ends streams in heads, (..., h, n, C / h), as Collapse does (..., n, C)."""

    def forward(self, x: Float[Tensor, "*batch h n width"]) -> Float[Tensor, "*batch C"]:
        if self.head is not None:
            return super().forward(x.transpose(-3, -2).flatten(-2))
        return (x.sum(-2) if self.how == "sum" else x.mean(-2)).flatten(-2)


def heads_of(recipe: Recipe, dim: int) -> tuple[int, int]:
    """h, and the width C / h of each."""
    heads = recipe.connection_options["heads"]
    if not is_integer(heads, 1, dim) or dim % heads:
        raise ValueError(f"heads: got {heads!r}; accepted with dim {dim}: integers >= 1 that divide it")
    return int(heads), dim // int(heads)
