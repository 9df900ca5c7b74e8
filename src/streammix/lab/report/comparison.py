"""Reading a comparison's folder as far as it goes: what is missing or broken becomes a note, not an error."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from streammix.lab.compare import checked_summary, is_number
from streammix.lab.config import RESIDUAL, Config, from_dict
from streammix.lab.errors import LabError
from streammix.lab.files import read_json
from streammix.lab.maps import Maps, measure_checkpoint, unmapped
from streammix.lab.training.metrics import damaged_lines, read_metrics

T = TypeVar("T")


@dataclass
class Run:
    """One recipe's run. What could not be read is empty or None, and `notes` says why."""

    name: str
    folder: Path
    config: Config | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    train: list[dict[str, Any]] = field(default_factory=list)
    val: list[dict[str, Any]] = field(default_factory=list)
    maps: Maps | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def val_loss(self) -> float | None:
        """The last validation loss measured, in nats a byte."""
        last = self.val[-1]["loss"] if self.val else None
        return self.summary.get("val_loss", last)

    @property
    def step(self) -> int:
        """The last step that is known to have been taken."""
        return self.summary.get("steps") or max((r["step"] for r in self.train + self.val), default=0)

    @property
    def state(self) -> str:
        """Empty for a finished run, else how far it came."""
        if self.summary:
            return ""
        if not self.step:
            return "not started"
        return f"stopped at step {self.step}" + (f" of {self.config.steps}" if self.config else "")


@dataclass
class Comparison:
    """A comparison's folder in memory; `runs` in the order in which they are shown."""

    folder: Path
    runs: list[Run]
    bigram: float | None
    data: dict[str, Any]
    notes: list[str]

    def find(self, name: str) -> Run | None:
        return next((run for run in self.runs if run.name == name), None)


def read_comparison(folder: Path, *, measure: bool = True) -> Comparison:
    """Everything the report shows, including, with `measure`, measurements of the trained models.

    Raises:
        LabError: the folder does not exist or holds no run at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LabError(f"{folder}: no such folder; accepted: one that `streammix compare` has written")
    notes: list[str] = []
    saved = attempt(lambda: comparison(folder / "compare.json"), folder / "compare.json", notes) or {}
    summaries = saved.get("runs") or {}
    found = sorted(path.parent.name for path in folder.glob("*/config.json"))
    names = list(dict.fromkeys([*summaries, *found]))
    if not names:
        raise LabError(f"{folder}: holds no run; accepted: a folder that `streammix compare` has written")
    runs = [read_run(folder / name, summaries.get(name) or {}, measure=measure) for name in names]
    runs.sort(key=lambda run: run.name != "residual")  # the baseline first; the rest keep their order
    return Comparison(folder, runs, saved.get("bigram_val_loss"), saved.get("data") or {}, notes)


def read_run(folder: Path, summary: dict[str, Any], *, measure: bool) -> Run:
    """One run and, with `measure` and where it has a checkpoint, the measurements of its model."""
    run = Run(folder.name, folder, summary=summary)
    config = folder / "config.json"
    run.config = attempt(lambda: from_dict(mapping(config), config), config, run.notes)
    if not summary and (folder / "summary.json").exists():
        path = folder / "summary.json"
        run.summary = attempt(lambda: checked_summary(mapping(path), path), path, run.notes) or {}
    records = attempt(lambda: read_metrics(folder), folder / "metrics.jsonl", run.notes) or []
    run.train = [r for r in records if r.get("kind") == "train" and {"step", "loss", "grad_norm"} <= r.keys()]
    run.val = [r for r in records if r.get("kind") == "val" and {"step", "loss"} <= r.keys()]
    if damaged := damaged_lines(folder):
        run.notes.append(f"{folder / 'metrics.jsonl'}: {damaged} damaged lines are left out")
    if not records:
        run.notes.append(f"{folder}: no measurements (metrics.jsonl is missing or empty)")
    if measure and run.config is not None:
        measured = attempt(lambda: measure_checkpoint(folder), folder, run.notes)
        run.maps = measured[1] if measured else None
        if measured and run.maps is None and run.config.recipe != RESIDUAL:
            run.notes.append(unmapped(run.config.recipe))
    return run


def comparison(path: Path) -> dict[str, Any]:
    """What compare.json holds, where it is what `compare` wrote."""
    saved = mapping(path)
    runs, bigram, about = saved.get("runs", {}), saved.get("bigram_val_loss"), saved.get("data", {})
    if not isinstance(runs, dict) or not isinstance(about, dict) or not (bigram is None or is_number(bigram)):
        raise LabError(f"{path}: not a comparison (something in it is of the wrong kind)")
    if any(not isinstance(value, str | int) for value in about.values()):
        raise LabError(f"{path}: not a comparison (its data are no words and numbers)")
    for name, summary in runs.items():
        require_name(name, path)
        if summary:
            checked_summary(summary, path)
    return saved


def require_name(name: str, path: Path) -> None:
    """Raise LabError where a run's name, read from `path`, would lead to another folder."""
    if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
        raise LabError(f"{path}: {name!r} is no name of a run")


def mapping(path: Path) -> dict[str, Any]:
    """The JSON object in a file; LabError where it holds something else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise LabError(f"{path}: holds a JSON {type(value).__name__}; accepted: an object")
    return value


def attempt(read: Callable[[], T], path: Path, notes: list[str]) -> T | None:
    """What `read` returns; where what it reads at `path` is missing or broken, None and a note."""
    try:
        return read()
    except (LabError, OSError, ValueError) as error:
        said = str(error)
        notes.append(said if str(path) in said else f"{path}: {said}")
        return None
