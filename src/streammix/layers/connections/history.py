"""What connections share whose state is all that the sites so far have put out: a tuple that grows."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..._checks import check_floating, check_integer
from ..._precision import full_precision
from ...recipes import Recipe
from .base import Connection, State
from .hyper import check_width

History = tuple[Float[Tensor, "*batch C"], ...]


class HistoryConnection(Connection):
    """A site whose state is `sources` tensors (..., C), the first of them the state before the first site."""

    sources: int
    carries = True

    def state_sizes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.dim,),) * self.sources

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        check_width(x, self.dim)
        return (x,)

    def streams_of(self, x: State) -> Tensor:
        """The sources (..., sources, C)."""
        return torch.stack(list(x), -2)


def check_history(state: Sequence[Tensor], sources: int, dim: int, site: int) -> None:
    """Raise ValueError unless the state is that before this site: so many sources, all of one shape (..., C)."""
    if len(state) != sources:
        raise ValueError(
            f"x: got a state of {len(state)} tensors; accepted by site {site}: {sources}, which `begin` and the sites"
            " before it make"
        )
    for source in state:
        check_floating("x", source)
        if source.shape != state[0].shape or source.shape[-1:] != (dim,):
            shapes = ", ".join(str(tuple(s.shape)) for s in state)
            raise ValueError(f"x: got a state of shapes {shapes}; accepted: all of one shape (..., {dim})")


def weighted_sum(weights: Float[Tensor, "*batch k"], sources: History, dtype: torch.dtype) -> Float[Tensor, "*batch C"]:
    """sum_j weights_j source_j, summed in float32 at least and returned in `dtype`.

    One by one, because a stack of the sources would be kept for the backward pass at every site, a copy of all.
    """
    with full_precision(weights):
        parts = (weights.narrow(-1, j, 1) * source for j, source in enumerate(sources))
        return reduce(torch.add, parts).to(dtype)


def check_settings(recipe: Recipe, streams: int, activation: Any) -> None:
    """Raise ValueError for several streams, or for an activation: outputs are kept apart."""
    if streams != 1:
        raise ValueError(f"streams: got {streams}; accepted with {recipe.connection} connections: 1, one state")
    if activation is not None:
        raise ValueError(
            f"activation: got {type(activation).__name__}; accepted with {recipe.connection} connections: None, because"
            " they keep the outputs of all branches apart"
        )


def block_of(recipe: Recipe, otherwise: int) -> int:
    """How many branches in a row make one block: the recipe's option, or what it is otherwise."""
    block = recipe.connection_options.get("block", otherwise)
    check_integer("block", block, 1)
    return int(block)
