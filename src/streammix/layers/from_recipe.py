"""What connections of every kind take from a recipe."""

from torch import Tensor

from .. import manifolds
from ..manifolds import Manifold
from ..recipes import Activation, Recipe


def read_weights(recipe: Recipe, logits: Tensor) -> Tensor:
    """pre = read(logits) + read_eps."""
    weights = activate(recipe.read, logits)
    return weights + recipe.read_eps if recipe.read_eps else weights


def write_weights(recipe: Recipe, logits: Tensor) -> Tensor:
    """post = write_multiplier write(logits) + write_eps."""
    weights = activate(recipe.write, logits)
    weights = weights * recipe.write_multiplier if recipe.write_multiplier != 1 else weights
    return weights + recipe.write_eps if recipe.write_eps else weights


def activate(activation: Activation, logits: Tensor) -> Tensor:
    match activation:
        case "linear":
            return logits
        case "sigmoid":
            return logits.sigmoid()
        case "twice-sigmoid":
            return 2 * logits.sigmoid()


def manifold_of(manifold: str | Manifold | None, recipe: Recipe, streams: int) -> Manifold:
    if manifold is None:
        return manifolds.get(recipe.manifold, streams, **recipe.manifold_options)
    if isinstance(manifold, str):
        return manifolds.get(manifold, streams)
    if manifold.streams != streams:
        raise ValueError(f"manifold: got one for {manifold.streams} streams; accepted here: {streams} streams")
    return manifold


def layer_norm_eps(recipe: Recipe) -> float:
    if recipe.norm_eps is None:
        raise ValueError(
            f"norm_eps: got None; {recipe.connection} connections with {recipe.logits} logits take a LayerNorm and"
            " accept finite numbers >= 0"
        )
    return recipe.norm_eps


def frozen_gate(recipe: Recipe) -> float | None:
    return recipe.gate if recipe.freeze_mix_gate else None


def check_index(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}; accepted: integers >= {least}")
