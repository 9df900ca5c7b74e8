"""What connections of every kind take from a recipe."""

from torch import Tensor

from .. import manifolds
from ..manifolds import Manifold
from ..recipes import Activation, Recipe


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


def frozen_gate(recipe: Recipe) -> float | None:
    return recipe.gate if recipe.freeze_mix_gate else None


def check_index(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}; accepted: integers >= {least}")
