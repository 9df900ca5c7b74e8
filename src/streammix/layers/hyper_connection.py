"""A site: one place where a branch is attached to the streams."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .. import recipes
from ..functional import check_floating, read, write
from ..manifolds import Manifold
from ..ops import current_for
from ..ops.site import ACTIVATION_CODES
from ..recipes import Connection, Recipe
from . import initialisation
from .coefficients import Coefficients, Flattened, Static, eps_of_norm, one_pass
from .from_recipe import check_index, frozen_gate, layer_norm_eps, manifold_of, read_weights, write_weights
from .per_segment import PerStream
from .temper import CP


class Opened(NamedTuple):
    """A site between its read and its write."""

    x: Float[Tensor, "*batch n C"]
    u: Float[Tensor, "*batch C"]
    post: Float[Tensor, "*batch n"]
    res: Float[Tensor, "*batch n n"]


class HyperConnection(nn.Module):
    """Reads the streams, runs a branch, mixes the streams and writes the branch's output to each (mHC Eq. 3).

        u = sum_j pre_j x_j,   y = branch(u),   out_i = sum_j H_res[i, j] x_j + post_i y

    pre, post and H_res are made per token from the streams themselves, in float32 at least, as the recipe says.

    Args:
        branch: maps (..., C) to (..., C), its own normalisation included. Further arguments are passed on; if
            it returns a tuple, the first item is written and the others are returned beside the streams. May be None if
            only `connect` is used.
        dim: C, the width of a stream.
        streams: n, the number of streams, >= 1.
        recipe: a name of `streammix.recipes.names()`, or a Recipe; of connection "hyper" (`Stack` builds the others).
        site: index of this site in the network (a Transformer block has two); the initial read rotates with it.
        manifold: overrides the recipe's: a name of `streammix.manifolds.names()` or a Manifold for n streams.
        dynamic: False makes logits static (parameters only); True or None leaves the recipe's choice.

    Raises:
        ValueError: an unknown name, or numbers that do not fit together. At the call: streams that are not (..., n, C).

    Call: site(x, *args, **kwargs) with x (..., n, C) -> (..., n, C), or (that, *extra outputs of the branch).
    """

    connection: ClassVar[Connection] = "hyper"

    def __init__(
        self,
        branch: Callable[..., Any] | None,
        dim: int,
        streams: int = 4,
        recipe: str | Recipe = "mhc",
        site: int = 0,
        *,
        manifold: str | Manifold | None = None,
        dynamic: bool | None = None,
    ) -> None:
        super().__init__()
        check_index("dim", dim, 1)
        check_index("site", site, 0)
        if branch is not None and not callable(branch):
            raise TypeError(f"branch: got {type(branch).__name__}; accepted: a module, a function or None")
        recipe = recipes.get(recipe) if isinstance(recipe, str) else recipe
        if recipe.connection != self.connection:
            raise ValueError(
                f"recipe: got {recipe.name!r}, whose connection is {recipe.connection!r}; {type(self).__name__} accepts"
                f" those with {self.connection!r}; streammix.Stack accepts all"
            )
        self.recipe = replace(recipe, logits="static") if dynamic is False else recipe
        if dynamic and self.recipe.logits == "static":
            raise ValueError(f"dynamic: recipe {self.recipe.name!r} makes static logits; choose a dynamic recipe")
        self.dim, self.streams, self.site = dim, streams, site
        self.branch: Callable[..., Any] | None = branch
        self.manifold = manifold_of(manifold, self.recipe, streams)
        self.logits = _generator(self.recipe, dim, streams, self.manifold.num_logits)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the connection's parameters to the recipe's start; the branch is left alone."""
        with torch.device("cpu"):
            start = initialisation.biases(self.recipe, self.streams, self.site, self.manifold.identity_logits())
        self.manifold.reset_parameters()
        std = initialisation.weight_std(self.recipe, self.streams * self.dim)
        self.logits.reset_parameters(start, std, self.recipe.gate)

    def forward(self, x: Float[Tensor, "*batch n C"], *args: Any, **kwargs: Any) -> Any:
        if self.branch is None:
            raise TypeError("branch: this HyperConnection was built with None; use connect(x)")
        u, finish = self.connect(x)
        out = self.branch(u, *args, **kwargs)
        if isinstance(out, tuple):
            return finish(out[0]), *out[1:]
        return finish(out)

    def connect(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "*batch C"], Callable[[Tensor], Float[Tensor, "*batch n C"]]]:
        """The branch's input u, and a function from the branch's output y to the new streams."""
        x, u, post, res = self._open(x)
        return u, lambda y: write(x, y, post, res)

    def _open(self, x: Tensor) -> Opened:
        arguments = self._operator_arguments(x)
        if arguments is None:
            pre, post, res = self.coefficients(x)
            return Opened(x, read(x, pre), post, res)
        self._check(x)
        operators = current_for(x, self.streams)
        u, post, mix, *_ = operators.site_read(x, *arguments)
        return Opened(x, u, post, self._mixing(mix, operators))

    def _open_after(self, before: Opened, y: Tensor, hooks: AbstractContextManager[Any] | None = None) -> Opened:
        """`_open` of the streams that the branch output y leaves at the site before: the same numbers in one pass.

        hooks: active around the operator that saves the streams, if it is that operator.
        """
        x, u, post, res = before
        arguments = self._operator_arguments(x)
        if y.dtype != x.dtype and torch.promote_types(x.dtype, y.dtype) == x.dtype:
            y = y.to(x.dtype)
        if arguments is None or y.shape != u.shape or y.dtype != x.dtype:
            return self._open(write(x, y, post, res))
        operators = current_for(x, self.streams)
        if not torch.is_grad_enabled() and (manifold := self._projection()):
            return Opened(*operators.next_site(x, y, post, res, *arguments, manifold.tol))
        if hooks is None:
            state, u, post, mix, *_ = operators.write_site_read(x, y, post, res, *arguments)
        else:
            with hooks:
                state, u, post, mix, *_ = operators.write_site_read(x, y, post, res, *arguments)
        return Opened(state, u, post, self._mixing(mix, operators))

    def _operator_arguments(self, x: Tensor) -> tuple[Any, ...] | None:
        """What the operators on whole sites take after the state; None where they do not serve this site or state.

        Here and in _mixing, what torch keeps in dictionaries is taken from there: for one token, nn.Module's ways to it
        cost as much as the arithmetic.
        """
        logits = self._modules["logits"]
        if type(logits) is not Flattened or watched(logits):
            return None
        own = logits._parameters
        weight, gate, bias = own.get("weight"), own.get("gate"), own.get("bias")
        if weight is None or gate is None or bias is None:  # replaced by something else, which attributes lead to
            return None
        dtype = weight.dtype
        if dtype != x.dtype:
            dtype = torch.promote_types(dtype, x.dtype)
        if not one_pass(x, dtype):
            return None
        parameters: tuple[Tensor, ...] = (weight, gate, bias)
        if dtype != weight.dtype:
            parameters = tuple(p.to(dtype) for p in parameters)
        r = self.recipe
        activations = ACTIVATION_CODES[r.read], ACTIVATION_CODES[r.write]
        weights = r.read_eps, r.write_multiplier, r.write_eps
        norm_eps = eps_of_norm(logits.norm_eps, dtype)
        return *parameters, logits.frozen_gate or 0.0, norm_eps, *activations, *weights

    def _mixing(self, logits: Tensor, operators: SimpleNamespace | None = None) -> Tensor:
        """H_res; with `operators`, of logits that came from one of them."""
        if operators and (manifold := self._projection()):
            n = self.streams
            return operators.birkhoff(logits.view(*logits.shape[:-1], n, n), manifold.tol)
        return self.manifold(logits)

    def _projection(self) -> Manifold | None:
        """The manifold, where the operator of the exact projection may stand in for it."""
        manifold: Any = self._modules["manifold"]
        return manifold if manifold.projects and not watched(manifold) else None

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[-2:] != (self.streams, self.dim):
            raise ValueError(f"x: got shape {tuple(x.shape)}; accepted: (..., {self.streams}, {self.dim})")
        check_floating("x", x)

    def coefficients(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        """pre (..., n), post (..., n) and H_res (..., n, n) for these streams, in float32 at least."""
        self._check(x)
        pre, post, res = self.logits(x)
        return read_weights(self.recipe, pre), write_weights(self.recipe, post), self._mixing(res)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, streams={self.streams}, recipe={self.recipe.name!r}, site={self.site}"


def watched(module: nn.Module) -> bool:
    """Whether hooks ask for the module to be called as a module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _generator(recipe: Recipe, dim: int, streams: int, num_logits: int) -> Coefficients:
    sizes = (streams, streams, num_logits)
    match recipe.logits:
        case "static":
            return Static(sizes)
        case "flattened":
            return Flattened(dim, streams, sizes, recipe.norm_eps, frozen_gate=frozen_gate(recipe))
        case "per-stream":
            if num_logits != streams**2:
                raise ValueError(
                    f"manifold: got one with {num_logits} logits; per-stream logits (recipe {recipe.name!r}) come in"
                    f" n^2 = {streams**2}"
                )
            return PerStream(dim, streams, layer_norm_eps(recipe))
        case "cp":
            return CP(dim, streams, num_logits, recipe.rank, recipe.norm_eps, frozen_gate=frozen_gate(recipe))
