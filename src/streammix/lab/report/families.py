"""Runs from anywhere, sorted: those that differ in their seed are one line of a plot, those that differ in their
learning rate too are one family."""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streammix.lab.config import Config, option
from streammix.lab.errors import LabError
from streammix.lab.report.comparison import Comparison, Run, attempt, mapping, read_run
from streammix.lab.training.divergence import reason

#: Settings that make no other model and no other training.
INCIDENTAL = ("threads", "device", "eval_every", "eval_batches", "checkpoint_every", "diagnose_every")
DEPTH = 4  # how many folders below a given one may lie above a run's


@dataclass
class Series:
    """Runs that differ in their seed alone."""

    lr: float
    runs: list[Run] = field(default_factory=list)

    def losses(self) -> list[float]:
        """The last validation loss of each run that ended."""
        return [run.val_loss for run in self.runs if run.summary and run.val_loss is not None]

    def loss(self) -> float | None:
        losses = self.losses()
        return statistics.fmean(losses) if losses else None


@dataclass
class Family:
    """Runs that differ in seed and learning rate alone; `series` by learning rate."""

    name: str
    series: list[Series]

    @property
    def best(self) -> Series:
        """The learning rate with the lowest mean loss among those of which the most seeds ended."""
        most = max(len(one.losses()) for one in self.series)
        ended = [one for one in self.series if len(one.losses()) == most]
        return min(ended, key=lambda one: (loss := one.loss()) is None or loss) if most else self.series[0]

    def runs(self) -> Iterator[Run]:
        for one in self.series:
            yield from one.runs


@dataclass
class Runs:
    """What a report of many runs shows; `notes` say what could not be read."""

    families: list[Family]
    notes: list[str]

    def all(self) -> Iterator[Run]:
        for family in self.families:
            yield from family.runs()

    def by_seed(self) -> dict[int, Comparison]:
        """Each family's best series, as the plots over seeds take it: one comparison a seed, runs named by family.

        Runs that share family, learning rate and seed are told apart as if they were further seeds.
        """
        seeds: dict[tuple[Any, int], list[Run]] = {}
        for family in self.families:
            taken: dict[Any, int] = {}
            for run in family.best.runs:
                seed = run.config.seed if run.config else None
                place = (seed, taken.get(seed, 0))
                taken[seed] = place[1] + 1
                seeds.setdefault(place, []).append(dataclasses.replace(run, name=family.name))
        return {i: Comparison(Path(), runs, None, {}, []) for i, runs in enumerate(seeds.values())}


def read_runs(folders: Sequence[Path]) -> Runs:
    """Every run in these folders, which are runs themselves or hold some, as comparisons and sweeps do.

    Raises:
        LabError: a folder does not exist or holds no run.
    """
    places: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise LabError(f"{folder}: no such folder; accepted: a run's folder, or one that holds runs")
        found = list(run_folders(folder))
        if not found:
            raise LabError(f"{folder}: holds no run; accepted: a run's folder, or one that holds runs")
        places |= {place.resolve(): place for place in found}
    runs, notes = [read_run(place, {}, measure=False) for place in places.values()], []
    for run in runs:
        notes += [note if str(run.folder) in note else f"{run.folder}: {note}" for note in run.notes]
        stopped = attempt(lambda run=run: reason(run.folder), run.folder, notes)  # type: ignore[misc]
        notes += [f"{run.folder}: {stopped}"] if stopped else []
    return Runs(families([run for run in runs if run.config is not None]), notes)


def run_folders(folder: Path) -> Iterator[Path]:
    """The folder itself if it is a run's, else those of the runs in it."""
    if (folder / "config.json").is_file():
        yield folder
        return
    for depth in range(1, DEPTH + 1):
        yield from sorted(path.parent for path in folder.glob("*/" * depth + "config.json"))


def families(runs: Sequence[Run]) -> list[Family]:
    """In the order of their first runs, but plain residuals first."""
    configs = [run.config for run in runs if run.config is not None]
    varying = [name for name in names() if len({str(getattr(config, name)) for config in configs}) > 1]
    sorted_: dict[str, dict[float, Series]] = {}
    for run, config in zip(runs, configs):
        series = sorted_.setdefault(label(config, varying), {})
        series.setdefault(config.lr, Series(config.lr)).runs.append(run)
    made = [Family(name, [series[lr] for lr in sorted(series)]) for name, series in sorted_.items()]
    for family in made:
        for one in family.series:
            one.runs.sort(key=lambda run: run.config.seed if run.config else 0)
    return sorted(made, key=lambda family: not family.name.startswith("residual"))


def names() -> list[str]:
    """The settings by which families are told apart, beside the recipe."""
    apart = ("recipe", "seed", "lr", *INCIDENTAL)
    return [field.name for field in dataclasses.fields(Config) if field.name not in apart]


def label(config: Config, varying: Sequence[str]) -> str:
    """The recipe, and those settings in which the runs differ."""
    words = [config.recipe]
    for name in varying:
        value = getattr(config, name)
        if name == "text":
            words.append(f"text {', '.join(Path(path).name for path in value) or 'by default'}")
        elif isinstance(value, bool):
            words.append(option(name if value else f"no-{name}").removeprefix("--").replace("-", " "))
        elif value is not None:
            words.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(words)


def bigram(runs: Runs) -> float | None:
    """The baseline, where comparisons above the runs know it and agree."""
    found = set()
    for run in runs.all():
        path = run.folder.parent / "compare.json"
        if path.is_file():
            saved = attempt(lambda path=path: mapping(path), path, []) or {}  # type: ignore[misc]
            found.add(saved.get("bigram_val_loss"))
    (value,) = found if len(found) == 1 else (None,)
    return value if type(value) is float else None
