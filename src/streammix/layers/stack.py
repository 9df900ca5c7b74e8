"""A network's branches and all that joins them: the streams' beginning, every site in order, and their end."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from jaxtyping import Float
from torch import Tensor, nn

from .. import recipes
from .._checks import check_integer
from ..recipes import Recipe
from . import fused
from .connections import Connection, State, make
from .keywords import accepted, divided


class Stack(nn.Module):
    """Joins branches by the connections of any recipe; takes the place of `for branch in branches: x = x + branch(x)`.

        stack = sm.Stack(branches, dim=512, recipe="mhc")
        y = stack(x)                                           # (..., C) -> (..., C)

    Args:
        branches: one or more maps from (..., C) to (..., C), each with its own normalisation and without a residual of
            its own, in order; a Transformer block has two. One that takes several inputs says so by an attribute
            `branch_inputs`, and gets as many tensors first: the same one where the recipe reads once.
        dim: C.
        streams: n, how many streams, fractions or segments; None takes the recipe's number (4, and 16 for xhc, say).
        recipe: a name of `streammix.recipes.names()`, or a Recipe.
        manifold: a name of `streammix.manifolds.names()`, in place of the recipe's.
        dynamic: False makes logits static (parameters only); True or None leaves the recipe's choice.
        recompute: k keeps the streams for the backward pass only before every k-th site, and rebuilds the others there
            from the branches' outputs, without running branches again. With uniform k, sqrt(n L / (n + 2)) keeps least
            for L sites (mHC, Sec. 4.3); "auto" keeps fewer, ever further apart towards the beginning: by the time
            those are rebuilt, the branches behind them need no memory. None keeps all. For connections "hyper" and
            "equilibrium" with flattened logits. Under torch.compile the compiler decides instead, and sites that are
            hooked or compiled by themselves keep all.
        first_output: whether to drop what a branch returns beside its first output, a tuple's further items. If not,
            and a branch returns a tuple, the stack returns (y, further), further[k] being those of branch k.
        channel_dim: where x and the branches have their C channels: 1 for (B, C, H, W).
        activation: applied to the streams after every write, as a ResNet's ReLU after the sum. Where streams start as
            copies of x, a new stack still equals the plain network.

    Attributes:
        sites: the connections, a ModuleList; site k has `.branch`, the k-th branch. len(stack), stack[k] and iteration
            are those of `sites`.
        collapse: what ends the streams, a module.

    Raises:
        TypeError: a branch is not callable. At the call: a branch returned no tensor first, or no branch takes a
            keyword argument that was given.
        ValueError: an unknown name, numbers that do not fit together. At the call: x is not (..., C).

    Call: stack(x, *args, **kwargs). Positional arguments go to every branch, a keyword argument to the branches that
    take one of its name.
    """

    def __init__(
        self,
        branches: Iterable[Callable[..., Any]],
        dim: int,
        streams: int | None = None,
        recipe: str | Recipe = "mhc",
        *,
        manifold: str | None = None,
        dynamic: bool | None = None,
        recompute: int | Literal["auto"] | None = None,
        first_output: bool = False,
        channel_dim: int = -1,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        branches = list(branches)
        if not branches:
            raise ValueError("branches: got none; accepted: one or more")
        for index, branch in enumerate(branches):
            if not callable(branch):
                raise TypeError(
                    f"branches: number {index} is a {type(branch).__name__}; accepted: modules and functions"
                )
        recipe = changed(recipes.get(recipe) if isinstance(recipe, str) else recipe, manifold, dynamic)
        streams = recipe.streams if streams is None else streams
        check_integer("dim", dim, 1)
        check_integer("streams", streams, 1)
        if recompute is not None and recompute != "auto":
            check_integer("recompute", recompute, 1)
        self.recipe, self.dim, self.streams, self.recompute = recipe, dim, streams, recompute
        self.first_output, self.channel_dim = first_output, channel_dim
        options = {"channel_dim": channel_dim, "activation": activation, "sites": len(branches)}
        self.sites = nn.ModuleList(
            make(recipe, branch, dim, streams, site, **options) for site, branch in enumerate(branches)
        )
        if recompute is not None and not all(site.rebuilds for site in self):
            raise ValueError(
                f"recompute: recipe {recipe.name!r} has {recipe.connection!r} connections with {recipe.logits} logits"
                f"{', and an activation follows them' * (activation is not None)}; accepted: 'hyper' and"
                " 'equilibrium' connections with flattened logits and no activation, or recompute=None"
            )
        self.collapse = self[-1].ending_here()

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Connection]:
        return iter(cast("Iterable[Connection]", self.sites))

    def __getitem__(self, index: int) -> Connection:
        return cast("Connection", self.sites[index])

    def forward(self, x: Float[Tensor, "..."], *args: Any, **kwargs: Any) -> Any:
        state, further = self._run(self.begin(x), args, kwargs)
        y = self.end(state)
        return y if self.first_output or not any(further) else (y, further)

    def states(self, x: Float[Tensor, "..."], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch n width"]:
        """The streams (fractions, segments) after the last site."""
        return self[-1].streams_of(self.run(self.begin(x), args, kwargs))

    def run(self, state: State, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> State:
        """Every site in order; in fewer passes over the state where nothing asks for the states in between."""
        return self._run(state, args, kwargs or {})[0]

    def _run(
        self, state: State, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[State, list[tuple[Any, ...]]]:
        """The state after the last site, and what else each branch returned."""
        sites = list(self)
        keywords = divided(kwargs, [accepted(site.branch) for site in sites] if kwargs else [None] * len(sites))
        if all(site.fuses for site in sites):
            kept = fused.kept_states(self.streams, len(sites), self.recompute) if self.recompute else frozenset()
            return fused.run(sites, state, args, keywords, kept=kept)
        further = []
        for site, own in zip(sites, keywords):
            state, more = site.split(site(state, *args, **own))
            further.append(more)
        return state, further

    def begin(self, x: Float[Tensor, "..."]) -> State:
        """The state before the first site."""
        return self[0].begin(x if self.channel_dim == -1 else x.movedim(self.channel_dim, -1))

    def end(self, state: State) -> Float[Tensor, "..."]:
        """The streams' end in one state."""
        y = self.collapse(state)
        return y if self.channel_dim == -1 else y.movedim(-1, self.channel_dim)

    def reset_parameters(self) -> None:
        """Set every connection and the collapse to the recipe's start; branches are left alone."""
        for part in (*self.sites, self.collapse):
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()

    def extra_repr(self) -> str:
        return f"dim={self.dim}, streams={self.streams}, recipe={self.recipe.name!r}"


def changed(recipe: Recipe, manifold: str | None, dynamic: bool | None) -> Recipe:
    """The recipe with another manifold or static logits."""
    if dynamic and recipe.logits == "static":
        raise ValueError(f"dynamic: recipe {recipe.name!r} makes static logits; choose a dynamic recipe")
    if manifold is not None:
        if not isinstance(manifold, str):
            raise TypeError(f"manifold: got {type(manifold).__name__}; Stack accepts a name, each site having its own")
        recipe = replace(recipe, manifold=manifold, manifold_options={})
    return replace(recipe, logits="static") if dynamic is False else recipe
