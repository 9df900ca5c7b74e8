"""From the state to logits: the generators of the papers, one file each."""

from collections.abc import Sequence

from ...recipes import Recipe
from .base import Generator, Start
from .cp import CP
from .flattened import Flattened
from .per_segment import PerSegment, PerStream
from .static import Static

__all__ = ["CP", "Flattened", "Generator", "PerSegment", "PerStream", "Start", "Static", "make"]


def make(
    recipe: Recipe, width: int, rows: int, sizes: Sequence[int], start: Start, *, temperature: float = 1.0
) -> Generator:
    """The generator that a recipe asks for.

    Args:
        recipe: its `logits` name the generator.
        width: of one row of the state: C, or C / m of a segment.
        rows: n, how many rows the state has.
        sizes: how many read, write and mix logits there are.
        start: see Start.
        temperature: of per-stream logits, see PerSegment.

    Raises:
        ValueError: the manifold's number of logits is none that the generator makes.
    """
    reads, writes, mixes = sizes
    frozen = recipe.gate if recipe.freeze_mix_gate else None
    match recipe.logits:
        case "static":
            return Static(sizes, start=start)
        case "flattened":
            return Flattened(width, rows, sizes, recipe.norm_eps, frozen_gate=frozen, start=start)
        case "per-stream":
            if mixes != rows**2:
                raise ValueError(
                    f"manifold: got one with {mixes} logits; per-stream logits (recipe {recipe.name!r}) come in"
                    f" n^2 = {rows**2}"
                )
            of_each, eps = (reads // rows, writes // rows), layer_norm_eps(recipe)
            if of_each == (1, 1) and temperature == 1:
                return PerStream(width, rows, eps, start=start)
            return PerSegment(width, rows, *of_each, temperature, eps, start=start)
        case "cp":
            return CP(width, rows, mixes, recipe.rank, recipe.norm_eps, frozen_gate=frozen, start=start)


def layer_norm_eps(recipe: Recipe) -> float:
    """The recipe's norm_eps, where a LayerNorm takes it."""
    assert recipe.norm_eps is not None  # a Recipe checks itself
    return recipe.norm_eps
