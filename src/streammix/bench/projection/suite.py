"""The projection suite's options and parts."""

from collections.abc import Mapping
from dataclasses import dataclass

from streammix.bench.suite import Part, Rows, Suite
from streammix.lab.errors import LabError

from . import measure
from .logits import FAMILIES
from .memory import memory
from .plot import PANELS
from .tables import accuracy_table, cost_table, speed_tables

BY_SIZE = "Nanoseconds a matrix by n, batch 8,192, N(0,1)"
BY_SCALE = "Nanoseconds a matrix by the logits' standard deviation, batch 8,192, n = 4"


@dataclass(frozen=True)
class Settings:
    """n: rows of the matrices; batch: matrices at once; family: names of logits to time on; turns: samples of each
    contender; compile: also measure under torch.compile."""

    n: int = 4
    batch: tuple[int, ...] = (512, 2048, 8192, 32768, 131072)
    family: tuple[str, ...] = ("N(0,1)", "N(0,10^2)")
    turns: int = 15
    compile: bool = True


def parts(settings: Settings) -> Mapping[str, Part]:
    for family in settings.family:
        if family not in FAMILIES:
            raise LabError(f"--family: there is no family {family!r}; accepted: {', '.join(FAMILIES)}")
    if settings.n < 1 or settings.turns < 1 or not settings.batch or min(settings.batch) < 1:
        raise LabError("--n, --batch and --turns take integers >= 1")
    families = {name: FAMILIES[name] for name in settings.family}
    return {
        "accuracy": Part(lambda _: measure.accuracy(n=settings.n), lambda rows: [accuracy_table(rows)]),
        "memory": Part(lambda _: memory(n=settings.n), memory_lines),
        "speed": Part(
            lambda progress: measure.speed(
                n=settings.n,
                batches=settings.batch,
                families=families,
                turns=settings.turns,
                compile=settings.compile,
                progress=progress,
            ),
            speed_tables,
        ),
        "sizes": Part(lambda _: measure.by_size(turns=settings.turns), lambda rows: [cost_table(rows, "n", BY_SIZE)]),
        "scales": Part(
            lambda _: measure.by_scale(turns=settings.turns), lambda rows: [cost_table(rows, "scale", BY_SCALE)]
        ),
    }


def memory_lines(rows: Rows) -> list[str]:
    return [
        f"{row['contender']}, forward + backward of {row['batch']:,} matrices: peak {row['peak'] / 1e6:,.1f} MB,"
        f" {row['beyond'] / 1e6:,.1f} MB beyond logits, matrices and their gradients"
        for row in rows
    ]


SUITE = Suite(Settings, parts, PANELS)
