"""Experiments under way: stopped and killed, shared, failing, and changed."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streammix.lab.errors import LabError
from streammix.lab.experiment.claims import newest
from streammix.lab.experiment.reading import read_experiment
from streammix.lab.experiment.results import CLAIMS, RESULT, RESULTS, RUNS, losses_of, prepare_folder, read_folder
from streammix.lab.experiment.running import run_experiment
from streammix.lab.text import load
from streammix.lab.training.metrics import read_metrics

Start = Callable[..., Any]


def ended(out: Path) -> dict[str, tuple[bytes, int, int]]:
    """Of each run that has a result: its content, when it was written, and how many claims the run has had."""
    return {
        path.parent.name: (path.read_bytes(), path.stat().st_mtime_ns, newest(out / CLAIMS, path.parent.name)[0])
        for path in (out / RUNS).glob(f"*/{RESULT}")
    }


def check_whole(out: Path, runs: int) -> None:
    """Every run has ended once, and went through each of its steps once."""
    experiment, results = read_folder(out)
    assert experiment.count() == len(results) == runs
    assert list(results) == [run.key for run in experiment.runs(losses_of(results))]
    for folder in (out / RUNS).iterdir():
        trained = [record["step"] for record in read_metrics(folder) if record["kind"] == "train"]
        assert trained == list(range(1, 13)), folder.name


def test_rates_are_chosen_by_the_first_seeds_and_used_by_the_others(coordinator: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun = coordinator(out, workers=2)
    begun.join(120)
    assert begun.exitcode == 0, begun.said.read_text()
    check_whole(out, runs=2 * 2 + 2)
    experiment, results = read_folder(out)
    for case in experiment.cases:
        losses = {r["lr"]: r["val_loss"] for r in results.values() if (r["arm"], r["seed"]) == (case.label, 0)}
        best = min(losses, key=losses.__getitem__)
        assert [r["lr"] for r in results.values() if (r["arm"], r["seed"]) == (case.label, 1)] == [best]
    lines = (out / RESULTS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(results.values())
    assert str(tmp_path) not in (out / RESULTS).read_text()
    said = begun.said.read_text().splitlines()
    assert len(said) == 6
    assert said[-1].startswith("6/6  ")
    assert not list((out / RUNS).glob("*/checkpoints"))


def test_twenty_interruptions_lose_no_run_and_repeat_none(coordinator: Start, tmp_path: Path, seed: int) -> None:
    """Ten of them by SIGKILL, ten by SIGINT, at any time."""
    out, draw = tmp_path / "out", random.Random(seed)
    before: dict[str, tuple[bytes, int, int]] = {}
    interruptions = 0
    while interruptions < 20:
        begun = coordinator(out, workers=2)
        begun.join(draw.uniform(0.05, 0.7))
        if begun.exitcode is None:
            os.kill(begun.pid, signal.SIGKILL if interruptions % 2 else signal.SIGINT)
            begun.join(60)
        interruptions += 1
        now = ended(out)
        assert {name: now.get(name) for name in before} == before
        before = now
    last = coordinator(out, workers=2)
    last.join(120)
    assert last.exitcode == 0, last.said.read_text()
    now = ended(out)
    assert {name: now.get(name) for name in before} == before
    check_whole(out, runs=6)


def test_two_coordinators_share_an_experiment(coordinator: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    two = [coordinator(out), coordinator(out)]
    for begun in two:
        begun.join(120)
        assert begun.exitcode == 0, begun.said.read_text()
    check_whole(out, runs=6)
    assert [count for _, _, count in ended(out).values()] == [1] * 6  # one claim each
    assert sum(len(begun.said.read_text().splitlines()) for begun in two) == 6  # each told of its own runs
    assert len((out / RESULTS).read_text().splitlines()) == 6


def test_a_run_whose_machine_went_silent_is_taken_over(coordinator: Start, toml: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    experiment = read_experiment(toml)
    prepare_folder(out, experiment, load(experiment.text))
    silent, alive = list(experiment.runs({}))[:2]
    for run in (silent, alive):
        (out / CLAIMS / f"{run.name}.1").write_text('{"machine": "elsewhere", "process": 1}\n')
    os.utime(out / CLAIMS / f"{silent.name}.1", (1e9, 1e9))
    begun = coordinator(out, lease=600)
    end = time.monotonic() + 120
    while len(ended(out)) < 3:  # all that can be ended without the other machine's run
        assert time.monotonic() < end
        time.sleep(0.05)
    begun.join(0.5)
    assert begun.exitcode is None  # it waits
    assert silent.name in ended(out)
    assert alive.name not in ended(out)
    os.utime(out / CLAIMS / f"{alive.name}.1", (0, 0))  # the other machine lets go of it
    begun.join(120)
    assert begun.exitcode == 0, begun.said.read_text()
    check_whole(out, runs=6)


def test_a_run_that_fails_does_not_stop_the_others(coordinator: Start, toml: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = next(iter(read_experiment(toml).runs({})))
    (out / RUNS).mkdir(parents=True)
    (out / "experiment.toml").write_text(toml.read_text())
    (out / RUNS / first.name).write_text("in the way")
    begun = coordinator(out)
    begun.join(120)
    assert begun.exitcode == 2
    *_, last = begun.said.read_text().splitlines()
    assert last.startswith(f"LabError: {first.name}: ")
    assert "File exists" in last
    assert len(ended(out)) == 4  # without the seed whose learning rate that run would have helped to choose
    (out / RUNS / first.name).unlink()
    again = coordinator(out)
    again.join(120)
    assert again.exitcode == 0, again.said.read_text()
    check_whole(out, runs=6)


def test_rates_that_diverge_are_results(coordinator: Start, toml: Path, tmp_path: Path) -> None:
    toml.write_text(toml.read_text().replace("lrs = [1e-3, 1e-2]", "lrs = [1e-3, 1e30]"))
    out = tmp_path / "out"
    begun = coordinator(out)
    begun.join(120)
    assert begun.exitcode == 0, begun.said.read_text()
    results = read_folder(out)[1].values()
    assert {(r["lr"], r["status"]) for r in results} == {(1e-3, "finished"), (1e30, "diverged")}
    assert all("training diverged" in r["reason"] for r in results if r["status"] == "diverged")
    assert {r["lr"] for r in results if r["seed"] == 1} == {1e-3}
    before = ended(out)
    again = coordinator(out)
    again.join(60)
    assert again.exitcode == 0
    assert ended(out) == before


def test_a_changed_file_needs_to_be_said_and_keeps_what_counts(coordinator: Start, toml: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun = coordinator(out)
    begun.join(120)
    before = ended(out)
    changed = toml.with_name("changed.toml")
    changed.write_text(toml.read_text().replace("seeds = [0, 1]", "seeds = [0, 2]"))
    refused = coordinator(out, file=changed)
    refused.join(60)
    assert refused.exitcode == 2
    assert "is another experiment, or another version of this one; --update goes on" in refused.said.read_text()
    updated = coordinator(out, file=changed, update=True)
    updated.join(120)
    assert updated.exitcode == 0, updated.said.read_text()
    after = ended(out)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2
    experiment, results = read_folder(out)
    assert experiment.seeds == (0, 2)
    assert {result["seed"] for result in results.values()} == {0, 2}
    assert len((out / RESULTS).read_text().splitlines()) == 8  # no result is thrown away


def test_results_alone_are_enough_to_go_on(coordinator: Start, tmp_path: Path) -> None:
    """A repository keeps the TOML, the text's hash and the results; nothing of them is trained again."""
    import shutil

    out = tmp_path / "out"
    coordinator(out).join(120)
    shutil.rmtree(out / RUNS)
    shutil.rmtree(out / CLAIMS)
    again = coordinator(out)
    again.join(60)
    assert again.exitcode == 0, again.said.read_text()
    assert ended(out) == {}
    assert len(read_folder(out)[1]) == 6


@pytest.mark.parametrize("damage", ["text", "result", "line", "foreign"])
def test_what_does_not_belong_to_an_experiment_is_refused(damage: str, toml: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    experiment = read_experiment(toml)
    if damage == "foreign":
        out.mkdir()
        (out / "precious").write_text("x")
        message = "not empty and holds no experiment"
    else:
        prepare_folder(out, experiment, load(experiment.text))
        message = "not the result of a run"
    if damage == "text":
        (toml.parent / "text" / "new.txt").write_text("more words of another kind")
        message = "the text has changed since this experiment began"
    if damage == "result":
        run = next(iter(experiment.runs({})))
        (out / RUNS / run.name).mkdir()
        (out / RUNS / run.name / RESULT).write_text('{"key": "x"}')
    if damage == "line":
        (out / RESULTS).write_text('{"key": 3}\n')
        message = r"results\.jsonl, line 1: not the result of a run"
    with pytest.raises(LabError, match=message):
        run_experiment(experiment, out)


@pytest.mark.parametrize("options", [{"workers": 0}, {"lease": 0.5}, {"lease": float("nan")}])
def test_numbers_of_workers_and_seconds_are_checked(options: dict[str, Any], toml: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"--(workers|lease) is .*; accepted"):
        run_experiment(read_experiment(toml), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
