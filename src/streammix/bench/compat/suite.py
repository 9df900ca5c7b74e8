"""The compat suite's options, its part and its table."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

from rich.table import Table

from streammix.bench.suite import Part, Progress, Rows, Suite
from streammix.bench.timing import interleaved
from streammix.lab.errors import LabError

from .models import (
    BATCH,
    BRANCHES,
    CLASSES,
    LAYERS,
    OURS,
    PACKAGE,
    STREAMS,
    TOKENS,
    Model,
    check_installed,
    training_step,
)


@dataclass(frozen=True)
class Settings:
    """dim: widths of the streams; turns: samples of each model."""

    dim: tuple[int, ...] = (512,)
    turns: int = 15


def parts(settings: Settings) -> Mapping[str, Part]:
    if settings.turns < 1 or not settings.dim or min(settings.dim) < 1:
        raise LabError("--dim and --turns take integers >= 1")
    check_installed()
    return {"step": Part(partial(step, settings), lambda rows: [table(rows)])}


def step(settings: Settings, progress: Progress) -> Rows:
    """Seconds of a training step of both, interleaved. "ratio": how many times as long the package's takes."""
    rows = []
    for dim in settings.dim:
        for cls in CLASSES:
            for branch in BRANCHES:
                progress(f"dim {dim}, {cls} around {branch}")
                calls = {name: training_step(Model(name, cls, branch, dim), dim) for name in (PACKAGE, OURS)}
                timings = interleaved(calls, turns=settings.turns)
                theirs, ours = timings[PACKAGE], timings[OURS]
                row = {"dim": dim, "class": cls, "branch": branch, "package_seconds": theirs.median}
                rows.append(row | {"streammix_seconds": ours.median, "ratio": theirs.over(ours)})
    return rows


def table(rows: Rows) -> Table:
    tokens = f"{BATCH} x {TOKENS} tokens of {STREAMS} streams"
    title = f"Training steps of {LAYERS} connections: hyper-connections {version('hyper-connections')}, {tokens}"
    made = Table(title=title, title_justify="left")
    for column in ("class", "branch"):
        made.add_column(column)
    for column in ("dim", "the package, ms", "streammix, ms", "times as fast"):
        made.add_column(column, justify="right")
    for row in rows:
        times = (f"{row[key] * 1e3:,.1f}" for key in ("package_seconds", "streammix_seconds"))
        made.add_row(row["class"], row["branch"], str(row["dim"]), *times, f"{row['ratio']:.1f}")
    return made


SUITE = Suite(Settings, parts, {})
