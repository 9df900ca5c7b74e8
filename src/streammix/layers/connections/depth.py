"""Attention over depth: a branch reads the outputs of all branches before it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...manifolds import Manifold
from ...recipes import Recipe, Wiring
from ..generators import Query, Start
from .base import Finish, unmixed
from .combine import check_output
from .history import History, HistoryConnection, block_of, check_history, check_settings, weighted_sum


class DepthConnection(
    HistoryConnection, wiring=Wiring("depth-attention", logits=("query",), endings=("attended",), optional=("block",))
):
    """A site that reads all outputs so far by attention over them (Attention Residuals, arXiv 2603.15031; Eq. 8-10 of
    Kimi K3's report, arXiv 2607.24653).

        u = sum_i a_i v_i,   a = softmax_i(w . v_i / rms(v_i)),   y = branch(u)

    v_0 is the state before the first site, v_i the output of branch i - 1. With blocks of b branches (Block AttnRes)
    v_i is the sum of the outputs of block i - 1, of the current one so far; with b = 1 each branch is a block. The
    query w is the site's own and starts at zero: the mean of all. The norm's weight is absorbed in w. Site 0, whose
    one source needs no weight, has no query; the end is one more attention, with a query of its own.

    Args:
        streams: 1.
        recipe: of connection "depth-attention". Its connection_options may give `block`: b, 1 if left out.
        activation: None.
        The others are Connection's.

    Attributes:
        block: b.
        sources: how many tensors the state before this site has.

    Call: site(state, *args, **kwargs) with a tuple of `sources` tensors (..., C) -> the state after it, or (that,
    *further outputs of the branch).
    """

    unmapped = "the weights of depth-attention connections, over outputs instead of streams, are not shown"

    def build(self, manifold: str | Manifold | None) -> None:
        check_settings(self.recipe, self.streams, self.activation)
        self.manifold = unmixed(manifold, self.recipe, self.streams)
        self.block = block_of(self.recipe, 1)
        self.sources = 1 + -(-self.site // self.block)
        self.logits: nn.Module = query(self.recipe, self.dim) if self.sources > 1 else nn.Identity()

    def weights(self, *state: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch sources"]:
        """a for the state before this site, in float32 at least."""
        check_history(state, self.sources, self.dim, self.site)
        return attention(self.logits, state)

    def join(self, x: Tensor, *carried: Tensor) -> tuple[Float[Tensor, "*batch C"], Finish]:
        state = (x, *carried)
        weights = self.weights(*state)
        u = weighted_sum(weights, state, x.dtype) if len(state) > 1 else x

        def finish(y: Tensor) -> History:
            check_output(self.branch, y, x.shape[:-1], self.dim)
            y = y.to(x.dtype)
            return (*state, y) if self.site % self.block == 0 else (*state[:-1], state[-1] + y)

        return u, finish

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return Attended(recipe, dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, block={self.block}, sources={self.sources}"


class Attended(nn.Module):
    """Ends a history by attention over it."""

    def __init__(self, recipe: Recipe, dim: int) -> None:
        super().__init__()
        self.logits = query(recipe, dim)

    def reset_parameters(self) -> None:
        self.logits.reset_parameters()

    def forward(self, state: History) -> Float[Tensor, "*batch C"]:
        return weighted_sum(attention(self.logits, state), state, state[0].dtype)


def query(recipe: Recipe, dim: int) -> Query:
    return Query(dim, recipe.norm_eps, start=Start((), recipe.weight_std))


def attention(logits: Any, sources: History) -> Float[Tensor, "*batch sources"]:
    """softmax of the sources' scores; one for a source alone."""
    if len(sources) == 1:
        return torch.ones_like(sources[0][..., :1], dtype=torch.promote_types(sources[0].dtype, torch.float32))
    scores: Tensor = logits(*(source.unsqueeze(-2) for source in sources))
    return scores.softmax(-1)
