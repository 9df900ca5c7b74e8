"""From the state to logits: the generators of the papers, one file each."""

from collections.abc import Sequence

from ...recipes import Recipe
from .base import Generator, Start
from .cp import CP
from .dense import Dense
from .flattened import Flattened
from .low_rank import LowRank
from .per_group import PerGroup
from .per_segment import PerSegment, PerStream
from .per_stream_rms import PerStreamRMS
from .query import Query
from .static import Static

__all__ = [
    "CP",
    "Dense",
    "Flattened",
    "Generator",
    "LowRank",
    "PerGroup",
    "PerSegment",
    "PerStream",
    "PerStreamRMS",
    "Query",
    "Start",
    "Static",
    "make",
]


def make(
    recipe: Recipe,
    width: int,
    rows: int,
    sizes: Sequence[int],
    start: Start,
    *,
    temperature: float = 1.0,
    transposed: bool = False,
) -> Generator:
    """The generator that a recipe asks for.

    Args:
        recipe: its `logits` name the generator.
        width: of one row of the state: C, or C / m of a segment.
        rows: n, how many rows the state has.
        sizes: how many read, write and mix logits there are; static and flattened logits may come in other groups.
        start: see Start.
        temperature: of per-stream logits, see PerSegment.
        transposed: whether the manifold takes the mixing logits of the transpose, see PerStreamRMS.

    Raises:
        ValueError: the manifold's number of logits is none that the generator makes.
    """
    mixes = sizes[-1]
    frozen = recipe.gate if recipe.freeze_mix_gate else None
    match recipe.logits:
        case "static":
            return Static(sizes, start=start)
        case "flattened":
            return Flattened(width, rows, sizes, recipe.norm_eps, frozen_gate=frozen, start=start)
        case "per-stream":
            check_square(recipe, mixes, rows)
            of_each, eps = (sizes[0] // rows, sizes[1] // rows), layer_norm_eps(recipe)
            if of_each == (1, 1) and temperature == 1:
                return PerStream(width, rows, eps, start=start)
            return PerSegment(width, rows, *of_each, temperature, eps, start=start)
        case "per-stream-rms" | "per-stream-rms-tanh":
            check_square(recipe, mixes, rows)
            tanh, eps = recipe.logits == "per-stream-rms-tanh", layer_norm_eps(recipe)
            return PerStreamRMS(width, rows, eps, tanh=tanh, transposed=transposed, start=start)
        case "cp":
            return CP(width, rows, mixes, recipe.rank, recipe.norm_eps, frozen_gate=frozen, start=start)
        case "low-rank":
            return LowRank(width, rows, recipe.rank, recipe.norm_eps, start=start)
        case "query" | "dense":
            raise ValueError(f"logits: got {recipe.logits!r}, which the connections that take them make themselves")


def check_square(recipe: Recipe, mixes: int, rows: int) -> None:
    """Raise ValueError unless there are n^2 mixing logits, of which each stream makes n."""
    if mixes != rows**2:
        raise ValueError(
            f"manifold: got one with {mixes} logits; per-stream logits (recipe {recipe.name!r}) come in n^2 = {rows**2}"
        )


def layer_norm_eps(recipe: Recipe) -> float:
    """The recipe's norm_eps, where a LayerNorm takes it."""
    assert recipe.norm_eps is not None  # a Recipe checks itself
    return recipe.norm_eps
