"""A network's branches and all that joins them: the streams' beginning, every site in order, and their end."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from .. import recipes
from ..functional import read
from ..recipes import Recipe
from . import deferred
from .frac import FracConnection
from .from_recipe import check_index
from .generalised import GeneralisedConnection, Narrow, widen
from .hyper_connection import HyperConnection
from .single_pass import SinglePassConnection, first_read
from .sparse import SparseConnection, share
from .streams import Collapse, expand

State = Any  # streams, fractions or segments (..., n, width); for single-pass wiring those and the next read weights


class Stack(nn.Module):
    """Joins branches by the connections of any recipe; takes the place of `for branch in branches: x = x + branch(x)`.

        stack = sm.Stack(branches, dim=512, recipe="mhc")
        y = stack(x)                                           # (..., C) -> (..., C)

    Args:
        branches: one or more maps from (..., C) to (..., C), each with its own normalisation, in order; a Transformer
            block has two. They must return one tensor: for branches with further outputs use HyperConnection.
        dim: C.
        streams: n, how many streams, fractions or segments; None takes the recipe's number (4, and 16 for xhc, say).
        recipe: a name of `streammix.recipes.names()`, or a Recipe.
        manifold: a name of `streammix.manifolds.names()`, in place of the recipe's.
        dynamic: False makes logits static (parameters only); True or None leaves the recipe's choice.
        recompute: k keeps the streams for the backward pass only before every k-th site, and rebuilds the others there
            from the branches' outputs, without running branches again. With uniform k, sqrt(n L / (n + 2)) keeps least
            for L sites (mHC, Sec. 4.3); "auto" keeps fewer, ever further apart towards the beginning: by the time
            those are rebuilt, the branches behind them need no memory. None keeps all. For connection "hyper" with
            flattened logits. Under torch.compile the compiler decides instead, and sites that are hooked or compiled
            by themselves keep all.

    Attributes:
        sites: the connections, a ModuleList; site k has `.branch`, the k-th branch.
        collapse: what ends the streams, a module.

    Raises:
        TypeError: a branch is not callable. At the call: a branch returned something else than a tensor.
        ValueError: an unknown name, numbers that do not fit together. At the call: x is not (..., C).

    Call: stack(x, *args, **kwargs), the further arguments going to every branch.
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
        check_index("dim", dim, 1)
        streams = recipe.streams if streams is None else streams
        check_index("streams", streams, 1)
        if recompute is not None:
            if recompute != "auto":
                check_index("recompute", recompute, 1)
            if (recipe.connection, recipe.logits) != ("hyper", "flattened"):
                raise ValueError(
                    f"recompute: recipe {recipe.name!r} has {recipe.connection!r} connections with {recipe.logits}"
                    " logits; accepted: 'hyper' connections with flattened logits, or recompute=None"
                )
        self.recipe, self.dim, self.streams, self.recompute = recipe, dim, streams, recompute
        self.sites = nn.ModuleList(build(branch, dim, streams, recipe, site) for site, branch in enumerate(branches))
        self.collapse = ending(recipe, dim, streams)

    def forward(self, x: Float[Tensor, "*batch C"], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch C"]:
        return self.end(self.run(self.begin(x), args, kwargs))

    def states(self, x: Float[Tensor, "*batch C"], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch n width"]:
        """The streams (fractions, segments) after the last site."""
        state = self.run(self.begin(x), args, kwargs)
        return state[0] if self.recipe.connection == "single-pass" else state

    def run(self, state: State, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> State:
        """Every site in order; in fewer passes over the state where nothing asks for the states in between."""
        kwargs = kwargs or {}
        if all(map(deferred.can_defer, self.sites)):
            sites: list[HyperConnection] = list(self.sites)  # type: ignore[arg-type]
            kept = deferred.kept_states(self.streams, len(sites), self.recompute) if self.recompute else frozenset()
            return deferred.run(sites, state, args, kwargs, kept=kept, checked=one_tensor)
        for index, site in enumerate(self.sites):
            state = site(state, *args, **kwargs)
            if self.recipe.connection == "hyper":
                state = one_tensor(index, state)
        return state

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        """The state before the first site."""
        wide = self.over_width
        if x.ndim < 1 or x.shape[-1] not in (self.dim, wide):
            accepted = f"(..., {self.dim})" + f" or (..., {wide})" * (wide != self.dim)
            raise ValueError(f"x: got shape {tuple(x.shape)}; accepted: {accepted}")
        match self.recipe.connection:
            case "frac":
                return x.unflatten(-1, (self.streams, -1))
            case "generalised" if x.shape[-1] == wide:
                return x.unflatten(-1, (self.streams, -1))
            case "generalised":
                return widen(x, self.recipe.connection_options["segments"], self.streams)
            case "sparse":
                return share(expand(x, self.streams), self.sites[0].active)  # type: ignore[arg-type]
            case "single-pass":
                x = expand(x, self.streams)
                return x, first_read(x)
            case "hyper":
                return expand(x, self.streams)

    @property
    def over_width(self) -> int:
        """The width of the whole state where it may be given as such, generalised connections' n C / m; else C."""
        if self.recipe.connection != "generalised":
            return self.dim
        return self.streams * self.dim // self.recipe.connection_options["segments"]

    def end(self, state: State) -> Float[Tensor, "*batch C"]:
        """The streams' end in one state."""
        if self.recipe.connection == "single-pass" and not isinstance(self.collapse, Carried):
            return self.collapse(state[0])
        return self.collapse(state)

    def reset_parameters(self) -> None:
        """Set every connection and the collapse to the recipe's start; branches are left alone."""
        for part in (*self.sites, self.collapse):
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()

    def extra_repr(self) -> str:
        return f"dim={self.dim}, streams={self.streams}, recipe={self.recipe.name!r}"


def one_tensor(index: int, output: Any) -> Tensor:
    if isinstance(output, tuple):
        raise TypeError(
            f"branches: number {index} returned a tuple; Stack accepts branches that return one tensor; use"
            " HyperConnection for others"
        )
    return output


def changed(recipe: Recipe, manifold: str | None, dynamic: bool | None) -> Recipe:
    """The recipe with another manifold or static logits."""
    if dynamic and recipe.logits == "static":
        raise ValueError(f"dynamic: recipe {recipe.name!r} makes static logits; choose a dynamic recipe")
    if manifold is not None:
        if not isinstance(manifold, str):
            raise TypeError(f"manifold: got {type(manifold).__name__}; Stack accepts a name, each site having its own")
        recipe = replace(recipe, manifold=manifold, manifold_options={})
    return replace(recipe, logits="static") if dynamic is False else recipe


def build(branch: Callable[..., Any], dim: int, streams: int, recipe: Recipe, site: int) -> nn.Module:
    """The site that this recipe's connection asks for."""
    options = recipe.connection_options
    match recipe.connection:
        case "hyper":
            return HyperConnection(branch, dim, streams, recipe, site, **options)
        case "frac":
            return FracConnection(branch, dim, streams, recipe, site, **options)
        case "generalised":
            return GeneralisedConnection(branch, dim, streams, recipe, site, **options)
        case "sparse":
            return SparseConnection(branch, dim, streams, recipe, site, **options)
        case "single-pass":
            return SinglePassConnection(branch, dim, streams, recipe, site, **options)
        case other:
            raise ValueError(f"connection: got {other!r}; accepted: hyper, frac, generalised, sparse, single-pass")


class Concatenate(nn.Module):
    """Ends fractions: (..., m, C / m) -> (..., C)."""

    def forward(self, h: Float[Tensor, "*batch m width"]) -> Float[Tensor, "*batch C"]:
        return h.flatten(-2)


class Carried(nn.Module):
    """Ends single-pass streams by the read weights the last site made: sum_j pre_j x_j."""

    def forward(self, state: tuple[Tensor, Tensor]) -> Float[Tensor, "*batch C"]:
        return read(*state)


def ending(recipe: Recipe, dim: int, streams: int) -> nn.Module:
    """What ends the streams of this recipe."""
    match recipe.connection, recipe.collapse:
        case "frac", "concatenate":
            return Concatenate()
        case "generalised", how:
            return Narrow(recipe.connection_options["segments"], streams, how)
        case "single-pass", "carried":
            return Carried()
        case "hyper" | "sparse" | "single-pass", "sum" | "mean" | "head" as how:
            return Collapse(dim, streams, how)
        case connection, how:
            accepted = "concatenate" if connection == "frac" else "sum, mean, head"
            accepted += ", carried" * (connection == "single-pass")
            raise ValueError(f"collapse: got {how!r}; {connection} connections accept {accepted}")
