"""Train several recipes on the same text, seed and budget, and put their results side by side."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from streammix.lab import text
from streammix.lab.config import Config, choices, from_dict, read_config
from streammix.lab.errors import LabError
from streammix.lab.files import clear_scratch, discard_folder, locked, read_json, write_json
from streammix.lab.text.bigram import bigram_loss
from streammix.lab.training.train import PARENT

NAME = "compare.json"


def compare(
    config: Config, recipes: Sequence[str], out: Path, *, fresh: bool = False, keep_going: bool = False
) -> dict[str, Any]:
    """Train `config` once with each recipe, in OUT/RECIPE, and return what OUT/compare.json holds.

    Runs that are there already are not repeated, and interrupted ones go on, unless `fresh`. Each run has a process
    of its own, one after the other, so that its speed and peak memory are its own.

    With `keep_going` a run that fails does not end the comparison: "failed" holds its name and why.

    Raises:
        LabError: OUT holds something else than this comparison, or a run failed (its message says why).
        KeyboardInterrupt: Ctrl-C; the run under way has written a checkpoint.
    """
    names = choices() if "all" in recipes else tuple(dict.fromkeys(recipes))
    corpus = text.load(config.text)
    text.require_length(corpus, config.context)
    config = text.with_vocabulary(config, corpus)
    configs = [config.joined_by(name) for name in names]
    settings = {name: value for name, value in config.to_dict().items() if name != "recipe"}
    prepare_folder(out, config, configs, corpus, fresh)

    baseline = bigram_loss(corpus.train, text.val_batches(corpus, config), corpus.vocabulary)
    result: dict[str, Any] = {"config": settings, "data": corpus.describe(), "bigram_val_loss": baseline, "runs": {}}
    for one in configs:
        result["runs"][one.recipe] = finished(out / one.recipe, one, corpus)
    failed: dict[str, str] = {}
    for one in configs:
        if result["runs"][one.recipe] is None:
            write_json(out / NAME, result | {"runs": done(result)})
            try:
                run_in_own_process(one, out / one.recipe)
            except LabError as error:
                if not keep_going:
                    raise
                failed[one.recipe] = str(error)
            result["runs"][one.recipe] = finished(out / one.recipe, one, corpus)
    result |= {"runs": done(result)} | ({"failed": failed} if failed else {})
    write_json(out / NAME, result)
    return result


def done(result: dict[str, Any]) -> dict[str, Any]:
    """The runs that have ended."""
    return {name: summary for name, summary in result["runs"].items() if summary is not None}


def prepare_folder(out: Path, config: Config, configs: Sequence[Config], corpus: text.Corpus, fresh: bool) -> None:
    """Make `out` the folder of this comparison, or raise LabError having changed nothing."""
    if out.exists() and not out.is_dir():
        raise LabError(f"{out}: is a file; --out must be a folder")
    if (out / NAME).exists():
        if fresh:
            discard_runs([out / one.recipe for one in configs])
            (out / NAME).unlink()
        else:
            different = differences(config, corpus, out / NAME)
            if different:
                raise LabError(
                    f"{out}: the comparison there differs in: {', '.join(different)}; "
                    "add --fresh to replace it, or choose another --out"
                )
    elif out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise LabError(f"{out}: the folder is not empty and holds no comparison; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    clear_scratch(out)


def differences(config: Config, corpus: text.Corpus, path: Path) -> list[str]:
    """What the comparison saved at `path` was run with and this one would not be."""
    there = read_json(path)
    try:
        saved = from_dict({**there["config"], "recipe": config.recipe}, path)
        sha256 = there["data"]["sha256"]
    except (KeyError, TypeError) as error:
        raise LabError(f"{path}: not a comparison ({error} is missing or of the wrong kind)") from None
    different = config.differences(saved, ignore=("recipe", "threads"))
    return different + ([] if sha256 == corpus.sha256 else ["the text's content"])


def discard_runs(runs: Sequence[Path]) -> None:
    """Delete runs, or raise LabError having changed nothing where another process is training in one of them."""
    with contextlib.ExitStack() as stack:
        there = [run for run in runs if run.exists()]
        for run in there:
            if not stack.enter_context(locked(run / ".lock", wait=False)):
                raise LabError(f"{run}: another process is training here; --fresh would delete what it does")
        for run in there:
            discard_folder(run)


def finished(run: Path, config: Config, corpus: text.Corpus) -> dict[str, Any] | None:
    """The summary of a run that has ended; None where it has not.

    Raises:
        LabError: the run there is none of this comparison, or its summary is damaged.
    """
    path = run / "summary.json"
    if not path.exists():
        return None
    different = config.differences(read_config(run / "config.json"), ignore=("threads",))
    summary = checked_summary(read_json(path), path)
    if (summary["recipe"], summary["steps"]) != (config.recipe, config.steps):
        different.append(f"the summary, of {summary['recipe']} after {summary['steps']} steps")
    if summary["data_sha256"] != corpus.sha256:
        different.append("the text's content")
    if different:
        raise LabError(f"{run}: the run there is none of this comparison; it differs in: {', '.join(different)}")
    return summary


def checked_summary(summary: Any, path: Path) -> dict[str, Any]:
    """The summary, or LabError where it is none."""
    if not isinstance(summary, dict):
        raise LabError(f"{path}: holds a JSON {type(summary).__name__}; accepted: an object")
    for name, kinds in SUMMARY.items():
        value = summary.get(name)
        if type(value) not in kinds or (str not in kinds and not is_number(value)):
            raise LabError(f"{path}: not a run's summary ({name!r} is missing or of the wrong kind)")
    return summary


def is_number(value: Any) -> bool:
    """Whether a value that came from a file is a number that can be calculated with."""
    return type(value) in (int, float) and abs(value) < 1e300  # false for NaN, too


NUMBER = (int, float)
SUMMARY: dict[str, tuple[type, ...]] = {"recipe": (str,), "data_sha256": (str,), "steps": (int,)}
SUMMARY |= dict.fromkeys(("parameters", "connection_parameters", "streams", "peak_memory_bytes"), (int,))
SUMMARY |= dict.fromkeys(("val_loss", "train_loss", "tokens_per_s", "seconds"), NUMBER)
SUMMARY |= dict.fromkeys(("grad_norm_median", "grad_norm_last", "grad_norm_max"), NUMBER)


def run_in_own_process(config: Config, run: Path) -> None:
    """`streammix train --resume` in a new process, which takes over the terminal until it ends."""
    command = [sys.executable, "-m", "streammix.cli", "train", "--resume", "--out", str(run), *config.arguments()]
    # A session of its own, so that Ctrl-C comes to it once, from here.
    # Threads that sleep while they wait, instead of spinning, lose a little on a free machine; on one whose cores are
    # busy with something else, spinning is ten and more times slower.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, PARENT: str(os.getpid())}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, said = process.communicate()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate()
        finally:  # a second Ctrl-C: do not wait for the checkpoint
            process.kill()
        raise
    if process.returncode == 0:
        sys.stderr.write(said)
    elif process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise LabError(f"{config.recipe}: training was ended by {name} (out of memory?); run this again to go on")
    else:
        reason = said.strip().splitlines()[-1] if said.strip() else f"exit code {process.returncode}"
        raise LabError(f"{config.recipe}: {reason.removeprefix('error: ')}")


def table(result: dict[str, Any]) -> Table:
    """The comparison for a terminal."""
    shown = Table(title="Validation loss in nats a byte; lower is better", title_justify="left")
    shown.add_column("recipe")
    for heading in ("parameters", "val loss", "grad norm\nmedian", "grad norm\nlast", "tokens/s", "peak memory"):
        shown.add_column(heading, justify="right")
    shown.add_row("bigram baseline", f"{256 * 256:,}", f"{result['bigram_val_loss']:.4f}", "", "", "", "")
    shown.add_section()
    best = min((run["val_loss"] for run in result["runs"].values()), default=None)
    for name, run in result["runs"].items():
        shown.add_row(
            name,
            f"{run['parameters']:,}",
            f"{run['val_loss']:.4f}",
            f"{run['grad_norm_median']:.3f}",
            f"{run['grad_norm_last']:.3f}",
            f"{run['tokens_per_s']:,.0f}",
            f"{run['peak_memory_bytes'] / 2**20:,.0f} MiB",
            style="bold" if run["val_loss"] == best else None,
        )
    return shown


def print_table(result: dict[str, Any]) -> None:
    # Wide enough for every column where there is no terminal to measure.
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", 110))
    Console(width=width).print(table(result))
