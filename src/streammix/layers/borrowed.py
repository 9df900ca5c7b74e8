"""A site on parameters that something else owns: a checkpoint's, another library's module's."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .. import manifolds, ops, recipes
from .._checks import check_floating, check_integer, check_number, check_streams
from .._precision import full_precision
from ..functional import read
from ..ops import ACTIVATION_CODES, operators_for
from ..ops.eager import site as eager
from ..recipes import Recipe, Switch
from .connections.base import Finish
from .connections.hyper import Opened
from .generators.flattened import eps_of_norm, one_pass

#: Of an argument that is the recipe's if it is not given; None is a value of norm_eps.
OF_RECIPE: Literal["recipe"] = "recipe"
OrRecipe = float | Literal["recipe"] | None

#: Called at every use of a site on borrowed parameters, see `streammix.diagnostics.watch`:
#: (formula, weight, bias, gate, the site up to its branch) -> what shall take that place.
BorrowedObserver = Callable[["SiteFormula", Tensor, Tensor, Tensor, Opened], Opened]
OBSERVERS: list[BorrowedObserver] = []


class Observed(Opened):
    """A site between its read and its write, which an observer finishes."""

    observed: Finish

    @classmethod
    def by(cls, finish: Finish, opened: Opened) -> "Observed":
        made = cls(*opened)
        made.observed = finish
        return made

    def finish(self, y: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch n C"]:
        return self.observed(y)


def connect(
    x: Float[Tensor, "*batch n C"],
    weight: Float[Tensor, "rows width"],
    bias: Float[Tensor, " rows"],
    gate: Float[Tensor, " gates"],
    recipe: str | Recipe = "deepseek-v4",
    *,
    rounds: int | None = None,
    eps: float | None = None,
    norm_eps: OrRecipe = OF_RECIPE,
) -> tuple[Float[Tensor, "*batch C"], Callable[[Tensor], Tensor]]:
    """One site on parameters that are given: a branch's input, and what to do with its output (mHC Eq. 3 and 7-9).

        l = gate * (vec(x) weight') / rms(vec x) + bias
        u = sum_j pre_j x_j,    out_i = sum_j H_res[i, j] x_j + post_i y

    pre, post and H_res are made of the logits l as the recipe says. `HyperConnection` with a recipe of flattened logits
    computes the same from parameters of its own.

    Args:
        x: (..., n, C) streams.
        weight: (2n + num_logits, n C): rows for n reads, n writes and the mix (n^2 for a matrix, row-major, in the
            source's own orientation; none without mixing); columns stream by stream.
        bias: (2n + num_logits).
        gate: one for each of reads, writes and mix, where they have logits: (3), or (2) without mixing.
        recipe: a name of `streammix.recipes.names()` or a Recipe, with connection "hyper" and flattened logits.
        rounds: of Sinkhorn; None: the recipe's.
        eps: in place of every eps that the recipe has on reads, on writes and in Sinkhorn; None: the recipe's.
        norm_eps: added to the mean square in rms; the recipe's if not given.

    Returns:
        u (..., C) and finish: the branch's output (..., C) -> the streams after the site (..., n, C).

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: shapes that do not fit together; a recipe that makes its logits otherwise, or whose mixing matrix
            has parameters or constants of its own; rounds or eps for a recipe without them.
    """
    _, n, C = check_streams(x)
    formula = formula_of(recipe, n, rounds=rounds, eps=eps, norm_eps=norm_eps)
    formula.check(weight, bias, gate, C)
    opened = formula.open(x, weight, bias, gate)
    return opened.u, opened.finish


class SiteFormula:
    """What a recipe says of a site with flattened logits, without parameters.

    Args:
        recipe: of connection "hyper", with flattened logits.
        streams: n.

    Raises:
        ValueError: another recipe, or one whose mixing matrix has parameters or constants of its own.
    """

    def __init__(self, recipe: Recipe, streams: int) -> None:
        if recipe.connection != "hyper" or recipe.logits != "flattened":
            raise ValueError(
                f"recipe: got {recipe.name!r}, with {recipe.connection!r} connections and {recipe.logits} logits;"
                " accepted: recipes with 'hyper' connections and flattened logits"
            )
        if any(isinstance(option, Switch) for option in recipe.manifold_options.values()):
            raise ValueError(
                f"recipe: got {recipe.name!r}, which changes along the depth; accepted: recipe.at(site, sites), the"
                " recipe of one site"
            )
        if recipe.write_multiplier_end is not None:
            raise ValueError(
                f"recipe: got {recipe.name!r}, whose write multiplier changes in training; accepted:"
                " dataclasses.replace(recipe, write_multiplier=..., write_multiplier_end=None)"
            )
        self.recipe, self.streams = recipe, streams
        self.manifold = manifolds.get(recipe.manifold, streams, **recipe.manifold_options)
        if [*self.manifold.parameters(), *self.manifold.buffers()]:
            raise ValueError(
                f"recipe: got {recipe.name!r}, whose matrices in {recipe.manifold!r} have parameters or constants of"
                " their own; accepted: recipes whose matrices need logits alone, such as mhc, deepseek-v4 and hy4"
            )
        self.frozen_gate = recipe.gate if recipe.freeze_mix_gate and self.manifold.num_logits else None
        activations = ACTIVATION_CODES[recipe.read], ACTIVATION_CODES[recipe.write]
        self.settings = (*activations, recipe.read_eps, recipe.write_multiplier, recipe.write_eps)

    def check(self, weight: Tensor, bias: Tensor, gate: Tensor, dim: int) -> None:
        """Raise unless these are parameters of such a site on streams of width `dim`."""
        n, mix = self.streams, self.manifold.num_logits
        rows, gates = 2 * n + mix, 2 + (mix > 0 and self.frozen_gate is None)
        for name, tensor, shape in (
            ("weight", weight, (rows, n * dim)),
            ("bias", bias, (rows,)),
            ("gate", gate, (gates,)),
        ):
            check_floating(name, tensor)
            if tensor.shape != shape:
                raise ValueError(
                    f"{name}: got shape {tuple(tensor.shape)}; accepted by recipe {self.recipe.name!r} with {n} streams"
                    f" of width {dim}: {shape}"
                )

    def open(self, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor) -> Opened:
        """The site up to its branch."""
        served, arguments = self._arguments(x, weight, bias, gate)
        if served:
            u, post, mix, *_ = operators_for(x, self.streams).site_read(x, *arguments)
        else:  # under torch.func's transforms, or with parameters wider than the streams
            with full_precision(x):
                u, post, mix, *_ = eager.site_read(x, *arguments)
        opened = Opened(x, u, post, self.manifold(mix))
        for observe in OBSERVERS:
            opened = observe(self, weight, bias, gate, opened)
        return opened

    def coefficients(
        self, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        """pre (..., n), post (..., n) and H_res (..., n, n) for these streams, in float32 at least."""
        _, (weight, gate, bias, mix_gate, norm_eps, *settings) = self._arguments(x, weight, bias, gate)
        with full_precision(x):
            P, _ = eager.coefficients(x, weight, norm_eps)
            pre, post, mix = eager.activated(self.streams, P, gate, bias, mix_gate, *settings)
        return pre, post, self.manifold(mix)

    def open_after(self, before: Opened, y: Tensor, weight: Tensor, bias: Tensor, gate: Tensor) -> Opened:
        """`open` of the streams that the output y of the branch before leaves: the same numbers in one pass."""
        x, u, post, res = before
        if OBSERVERS:
            return self.open(before.finish(y), weight, bias, gate)
        served, arguments = self._arguments(x, weight, bias, gate)
        if y.dtype != x.dtype and torch.promote_types(x.dtype, y.dtype) == x.dtype:  # under autocast
            y = y.to(x.dtype)
        if not served or y.shape != u.shape or y.dtype != x.dtype:
            return self.open(before.finish(y), weight, bias, gate)
        operators = operators_for(x, self.streams)
        if not torch.is_grad_enabled() and self.manifold.projects:
            return Opened(*operators.next_site(x, y, post, res, *arguments, self.manifold.tol))
        x, u, post, mix, *_ = operators.write_site_read(x, y, post, res, *arguments)
        return Opened(x, u, post, self.manifold(mix))

    def _arguments(self, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor) -> tuple[bool, tuple[Any, ...]]:
        """Whether the operators on whole sites serve these streams, and their arguments after them."""
        dtype = torch.promote_types(torch.promote_types(weight.dtype, x.dtype), torch.float32)
        norm_eps = eps_of_norm(self.recipe.norm_eps, dtype)
        parameters = weight.to(dtype), gate.to(dtype), bias.to(dtype)
        return one_pass(x, dtype), (*parameters, self.frozen_gate or 0.0, norm_eps, *self.settings)


def formula_of(
    recipe: str | Recipe,
    streams: int,
    *,
    rounds: int | None = None,
    eps: float | None = None,
    norm_eps: OrRecipe = OF_RECIPE,
) -> SiteFormula:
    """The recipe's formula for n streams, with other numbers where they are given.

    Raises:
        ValueError: as `connect`.
    """
    return _formula(recipes.get(recipe) if isinstance(recipe, str) else recipe, streams, rounds, eps, norm_eps)


@lru_cache(maxsize=256)  # for one token, making a formula would cost more than the site
def _formula(recipe: Recipe, streams: int, rounds: int | None, eps: float | None, norm_eps: OrRecipe) -> SiteFormula:
    options = dict(recipe.manifold_options)
    changes: dict[str, Any] = {}
    if rounds is not None:
        check_integer("rounds", rounds, 1)
        if recipe.manifold != "sinkhorn":
            raise ValueError(f"rounds: got {rounds}, but recipe {recipe.name!r} has none; accepted: None")
        options["rounds"] = rounds
    if eps is not None:
        check_number("eps", eps, "None or finite numbers >= 0")
        changes = {name: eps for name in ("read_eps", "write_eps") if getattr(recipe, name)}
        if recipe.manifold == "sinkhorn" and manifolds.Sinkhorn(streams, **options).has_eps:
            options["eps"] = eps
        elif not changes:
            raise ValueError(f"eps: got {eps}, but recipe {recipe.name!r} has none; accepted: None")
    if norm_eps != OF_RECIPE:
        changes["norm_eps"] = norm_eps
    return SiteFormula(replace(recipe, manifold_options=options, **changes), streams)


def head(
    x: Float[Tensor, "*batch n C"],
    weight: Float[Tensor, "n width"],
    bias: Float[Tensor, " n"],
    gate: Float[Tensor, " 1"],
    *,
    norm_eps: float,
    eps: float,
) -> Float[Tensor, "*batch C"]:
    """The end of the streams by DeepSeek-V4's hc_head:

    sum_j (sigmoid(gate (vec(x) weight_j) / rms(vec x) + bias_j) + eps) x_j
    """
    dtype = torch.promote_types(torch.promote_types(weight.dtype, x.dtype), torch.float32)
    with full_precision(x):
        if one_pass(x, dtype):
            projected = ops.coefficients(x, weight.to(dtype), norm_eps)[0]
        else:
            projected = eager.coefficients(x, weight.to(dtype), norm_eps)[0]
        return read(x, (projected * gate.to(dtype) + bias.to(dtype)).sigmoid() + eps)
