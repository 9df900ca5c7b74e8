"""The results of an experiment's folder: one JSON object a run.

OUT/experiment.toml     what was run
OUT/data.json           of which text
OUT/results.jsonl       one line a run that has ended; with the two above, all that a table needs
OUT/runs/NAME/          each run: config.json, metrics.jsonl, ..., and result.json, which becomes its line
OUT/claims/             who trains what
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streammix.lab import text
from streammix.lab.compare import checked_summary, is_number
from streammix.lab.errors import LabError
from streammix.lab.experiment.plan import Experiment, Run
from streammix.lab.experiment.reading import read_experiment
from streammix.lab.files import read_json, replace_file, write_json

TOML, DATA, RESULTS, RUNS, CLAIMS, RESULT = (
    *("experiment.toml", "data.json", "results.jsonl", "runs", "claims"),
    "result.json",
)
FINISHED, DIVERGED = "finished", "diverged"


def prepare_folder(out: Path, experiment: Experiment, corpus: text.Corpus, *, update: bool = False) -> None:
    """Make `out` this experiment's folder, or raise LabError having changed nothing.

    Args:
        update: whether the folder may hold another version of the experiment; its results that this one needs are kept.
    """
    if out.exists() and not out.is_dir():
        raise LabError(f"{out}: is a file; --out must be a folder")
    saved, data = out / TOML, out / DATA
    if not saved.exists() and out.exists() and any(is_foreign(path) for path in out.iterdir()):
        raise LabError(f"{out}: the folder is not empty and holds no experiment; choose another --out")
    if saved.exists() and not update and saved.read_text(encoding="utf-8") != experiment.source:
        raise LabError(
            f"{saved}: is another experiment, or another version of this one; --update goes on with the new version"
            " and keeps the results that both have, or choose another --out"
        )
    if data.exists() and (there := read_json(data)["sha256"]) != corpus.sha256:
        raise LabError(f"{out}: the text has changed since this experiment began ({corpus.sha256[:12]}, {there[:12]})")
    for folder in (out, out / RUNS, out / CLAIMS):
        folder.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        write_json(data, corpus.describe())
    replace_file(saved, experiment.source.encode())


def is_foreign(path: Path) -> bool:
    """Whether a file is none that another worker has just made in a new folder."""
    return path.name not in (TOML, DATA, RUNS, CLAIMS) and not path.name.startswith(".")


def read_folder(out: Path) -> tuple[Experiment, dict[str, dict[str, Any]]]:
    """The experiment of a folder, and the result of each of its runs that has ended, by the run's key.

    Raises:
        LabError: the folder holds no experiment, or a result is damaged or of another text.
    """
    if not (out / TOML).exists():
        raise LabError(f"{out}: holds no experiment ({TOML} is missing)")
    experiment = read_experiment(out / TOML)
    return experiment, read_results(out, experiment)


def read_results(out: Path, experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The result of each run of the experiment that has ended, by the run's key, in the experiment's order."""
    found = read_all(out)
    return {run.key: found[run.key] for run in experiment.runs(losses_of(found)) if run.key in found}


def read_all(out: Path) -> dict[str, dict[str, Any]]:
    """Every result in the folder, those of other versions of the experiment included."""
    found: dict[str, dict[str, Any]] = {}
    if (out / RESULTS).exists():
        for number, line in enumerate((out / RESULTS).read_bytes().splitlines(), start=1):
            where = f"{out / RESULTS}, line {number}"
            try:
                result = checked(json.loads(line), where)
            except ValueError:
                raise LabError(f"{where}: not valid JSON") from None
            found[result["key"]] = result
    for path in (out / RUNS).glob(f"*/{RESULT}"):
        result = checked(read_json(path), str(path))
        found[result["key"]] = result
    sha256 = read_json(out / DATA)["sha256"] if (out / DATA).exists() else None
    for result in found.values():
        if sha256 not in (None, result["data_sha256"]):
            raise LabError(f"{out}: {result['name']} was trained on another text than {DATA} says")
    return found


def find_result(out: Path, run: Run) -> dict[str, Any] | None:
    """The result of a run that some worker has ended."""
    path = out / RUNS / run.name / RESULT
    return checked(read_json(path), str(path)) if path.exists() else None


def losses_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The validation loss of each result, infinite where training diverged."""
    return {
        key: result["val_loss"] if result["status"] == FINISHED else float("inf") for key, result in results.items()
    }


def checked(result: Any, where: str) -> dict[str, Any]:
    """The result, or LabError where it is none."""
    words = ("key", "name", "arm", "group", "status", "data_sha256")
    if not isinstance(result, dict) or not all(isinstance(result.get(word), str) for word in words):
        raise LabError(f"{where}: not the result of a run")
    if result["status"] not in (FINISHED, DIVERGED) or not is_number(result.get("lr")):
        raise LabError(f"{where}: not the result of a run (status {result['status']!r}, lr {result.get('lr')!r})")
    return checked_summary(result, Path(where)) if result["status"] == FINISHED else result


def write_results(out: Path, experiment: Experiment) -> None:
    """Put every result in OUT/results.jsonl, one line each, this version's first."""
    results = read_results(out, experiment) | read_all(out)
    lines = [json.dumps(result, allow_nan=False) for result in results.values()]
    replace_file(out / RESULTS, "".join(f"{line}\n" for line in lines).encode())
