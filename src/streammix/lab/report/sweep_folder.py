"""Reading a sweep's folder as far as it goes: a comparison for each precision and seed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streammix.lab.errors import LabError
from streammix.lab.report.comparison import Comparison, Run, attempt, mapping, read_comparison, require_name

NAME = "sweep.json"
PRECISIONS = ("float32", "bf16")


def place(out: Path, precision: str, seed: int) -> Path:
    """Where a sweep keeps the comparison of one precision and seed."""
    return out / precision / f"seed-{seed}"


@dataclass
class Sweep:
    """A sweep's folder in memory. Every comparison has a run of every recipe, be it one that never began."""

    folder: Path
    recipes: list[str]
    seeds: list[int]
    precisions: list[str]
    comparisons: dict[tuple[str, int], Comparison] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of(self, precision: str) -> dict[int, Comparison]:
        """The comparisons of one precision, by seed."""
        return {seed: one for (kind, seed), one in self.comparisons.items() if kind == precision}

    def runs(self) -> Iterator[Run]:
        for one in self.comparisons.values():
            yield from one.runs

    def bigram(self, precision: str) -> float | None:
        """The baseline, which is the same for all seeds."""
        return next((one.bigram for one in self.of(precision).values() if one.bigram is not None), None)


def read_sweep(folder: Path) -> Sweep:
    """What a sweep's page shows.

    Raises:
        LabError: the folder does not exist or holds no run at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LabError(f"{folder}: no such folder; accepted: one that `streammix sweep` has written")
    notes: list[str] = []
    saved = attempt(lambda: checked(mapping(folder / NAME), folder / NAME), folder / NAME, notes) or found(folder)
    if not all(saved[name] for name in ("recipes", "seeds", "precisions")):
        raise LabError(f"{folder}: holds no run; accepted: a folder that `streammix sweep` has written")
    sweep = Sweep(folder, saved["recipes"], saved["seeds"], saved["precisions"], notes=notes)
    for precision in sweep.precisions:
        for seed in sweep.seeds:
            sweep.comparisons[precision, seed] = read_place(sweep, precision, seed)
    notes += [f"{where} failed: {why}" for where, why in saved["failed"].items()]
    return sweep


def read_place(sweep: Sweep, precision: str, seed: int) -> Comparison:
    """The runs of one precision and seed, in the sweep's order."""
    folder, where = place(sweep.folder, precision, seed), f"{precision}, seed {seed}"
    there = attempt(lambda: read_comparison(folder, measure=False), folder, sweep.notes) if folder.is_dir() else None
    there = there or Comparison(folder, [], None, {}, [])
    there.runs = [there.find(name) or Run(name, folder / name) for name in sweep.recipes]
    sweep.notes += [f"{where}: {note}" for note in there.notes]
    for run in there.runs:
        sweep.notes += [f"{where}, {run.name}: {note}" for note in run.notes]
    return there


def checked(saved: dict[str, Any], path: Path) -> dict[str, Any]:
    """What sweep.json holds, where it is what `sweep` wrote.

    Raises:
        LabError: it is something else.
    """
    for name, kind in (("recipes", str), ("seeds", int), ("precisions", str)):
        values = saved.get(name)
        if not isinstance(values, list) or not values or any(type(value) is not kind for value in values):
            raise LabError(f"{path}: not a sweep ({name!r} is missing or of the wrong kind)")
    failed = saved.get("failed")
    if not isinstance(failed, dict) or not all(isinstance(why, str) for why in failed.values()):
        raise LabError(f"{path}: not a sweep ('failed' is missing or of the wrong kind)")
    if not set(saved["precisions"]) <= set(PRECISIONS):
        raise LabError(f"{path}: not a sweep (its precisions are none; accepted: {', '.join(PRECISIONS)})")
    for name in saved["recipes"]:
        require_name(name, path)
    unique = {name: list(dict.fromkeys(saved[name])) for name in ("recipes", "seeds", "precisions")}
    return unique | {"failed": failed}


def found(folder: Path) -> dict[str, Any]:
    """What a sweep was of, as its folders tell; the plain residual first."""
    precisions = [name for name in PRECISIONS if (folder / name).is_dir()]
    runs = [path.parent for name in precisions for path in folder.glob(f"{name}/seed-*/*/config.json")]
    numbers = {run.parent.name.removeprefix("seed-") for run in runs}
    seeds = sorted(int(number) for number in numbers if number.removeprefix("-").isdecimal())
    recipes = sorted({run.name for run in runs}, key=lambda name: (name != "residual", name))
    return {"recipes": recipes, "seeds": seeds, "precisions": precisions, "failed": {}}
