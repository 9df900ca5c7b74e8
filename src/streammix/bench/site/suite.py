"""The site suite's options and parts."""

from collections.abc import Mapping
from dataclasses import dataclass

from streammix.bench.suite import Part, Suite
from streammix.lab.errors import LabError

from .diagnosing import diagnosing
from .memory import memory
from .models import decoding, training_step
from .of_recipes import of_recipes
from .one_site import one_site
from .plot import PANELS
from .streams import streams
from .tables import (
    decoding_table,
    diagnosing_table,
    memory_table,
    recipes_table,
    site_tables,
    step_table,
    streams_table,
)


@dataclass(frozen=True)
class Settings:
    """n: streams; dim: widths of the models and of the single site; turns: samples of a training step, a third of those
    of everything else; compile: also measure under torch.compile; recipe: those of the part recipes, all if empty."""

    n: int = 4
    dim: tuple[int, ...] = (512, 1024)
    turns: int = 5
    compile: bool = True
    recipe: tuple[str, ...] = ()


def parts(settings: Settings) -> Mapping[str, Part]:
    n, dims, turns, often = settings.n, settings.dim, settings.turns, 3 * settings.turns
    if n < 1 or turns < 1:
        raise LabError("--n and --turns take integers >= 1")
    if not dims or min(dims) < 2 or any(dim % 2 for dim in dims):
        raise LabError(f"--dim: got {', '.join(map(str, dims))}; accepted: even integers >= 2")
    compiled = settings.compile
    return {
        "streams": Part(lambda progress: streams(n=n, turns=often, progress=progress), streams_table),
        "site": Part(
            lambda progress: one_site(n=n, dims=dims, turns=often, compile=compiled, progress=progress), site_tables
        ),
        "recipes": Part(
            lambda progress: of_recipes(names=settings.recipe, dim=dims[0], turns=often, progress=progress),
            recipes_table,
        ),
        "step": Part(
            lambda progress: training_step(n=n, dims=dims, turns=turns, compile=compiled, progress=progress), step_table
        ),
        "decoding": Part(lambda progress: decoding(n=n, dims=dims[:1], turns=often, progress=progress), decoding_table),
        "diagnostics": Part(
            lambda progress: diagnosing(n=n, dims=dims, turns=turns, progress=progress), diagnosing_table
        ),
        "memory": Part(lambda progress: memory(n=n, dims=dims, progress=progress), memory_table),
    }


SUITE = Suite(Settings, parts, PANELS)
