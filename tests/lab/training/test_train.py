"""Training runs: what they leave behind, and that stopping them in any way changes nothing."""

import contextlib
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from streammix import cli
from streammix.lab import files
from streammix.lab.config import Config, read_config
from streammix.lab.errors import LabError
from streammix.lab.files import SCRATCH
from streammix.lab.training import checkpoint
from streammix.lab.training.metrics import Metrics, read_metrics
from streammix.lab.training.train import STOP_SIGNALS, delayed_interrupt, reserved, train

TIMINGS = {"seconds", "tokens_per_s"}


def curve(run: Path) -> list[dict[str, Any]]:
    """The metrics without the timings: what must not depend on interruptions."""
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in read_metrics(run)]


def assert_same_run(run: Path, reference: Path) -> None:
    assert curve(run) == curve(reference)
    mine, theirs = (checkpoint.latest(path)[0] for path in (run, reference))
    assert mine is not None
    assert theirs is not None
    assert mine.step == theirs.step
    for kind in ("weights", "optimizer"):
        ours, others = getattr(mine, kind), getattr(theirs, kind)
        assert ours.keys() == others.keys()
        assert all(value.equal(others[name]) for name, value in ours.items())


def test_what_a_run_leaves(tiny: dict[str, Any], tmp_path: Path) -> None:
    config, run = Config(**tiny | {"recipe": "hc"}), tmp_path / "run"
    threads = torch.get_num_threads()
    summary = train(config, run)
    assert torch.get_num_threads() == threads
    assert read_config(run / "config.json") == config
    assert json.loads((run / "summary.json").read_text()) == summary

    records = read_metrics(run)
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, 13))
    assert [r["step"] for r in records if r["kind"] == "val"] == [0, 5, 10, 12]
    last = [r for r in records if r["kind"] == "train"][-1]
    assert set(last) == {"step", "kind", "loss", "grad_norm", "lr", "tokens", "seconds", "tokens_per_s"}
    assert last["tokens"] == summary["tokens"] == 12 * 2 * 16

    assert summary["val_loss"] == records[-1]["loss"]
    assert (
        summary["parameters"] - summary["connection_parameters"]
        == train(Config(**tiny), tmp_path / "plain")["parameters"]
    )
    # hc: per site LayerNorm 2C, W (n + 2) C, n (n + 2) biases, 2 gates
    assert summary["connection_parameters"] == 4 * (2 * 16 + 6 * 16 + 24 + 2)
    assert summary["peak_memory_bytes"] > 50 << 20
    assert [path.name for path in checkpoint.steps(run)] == ["step-000008", "step-000012"]

    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss/val")] == [0, 5, 10, 12]


def test_loss_falls_and_bfloat16_follows(tiny: dict[str, Any], tmp_path: Path) -> None:
    longer = tiny | {"steps": 60, "lr": 1e-2, "recipe": "mhc"}
    exact = train(Config(**longer), tmp_path / "exact")
    rough = train(Config(**longer | {"bf16": True}), tmp_path / "rough")
    assert exact["val_loss"] < read_metrics(tmp_path / "exact")[0]["loss"] - 1
    assert rough["val_loss"] != exact["val_loss"]
    assert abs(rough["val_loss"] - exact["val_loss"]) < 0.1


def test_finished_run_is_not_repeated(tiny: dict[str, Any], tmp_path: Path) -> None:
    summary = train(Config(**tiny), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.name != ".lock"}
    assert train(Config(**tiny), tmp_path / "run", resume=True) == summary
    assert {path: path.stat().st_mtime_ns for path in before} == before


# --- refusals ---------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(config: Config, run: Path, message: str, resume: bool = False) -> None:
    before = contents(run.parent)
    with pytest.raises(LabError, match=message):
        train(config, run, resume=resume)
    assert contents(run.parent) == before


def test_folders_that_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    config, run = Config(**tiny), tmp_path / "runs" / "one"
    train(config, run)
    refused(config, run, "holds a run already; add --resume")
    refused(Config(**tiny | {"lr": 0.5}), run, r"other settings: --lr 0\.5 \(there: 0\.003\)", resume=True)
    (tmp_path / "runs" / "photos").mkdir()
    (tmp_path / "runs" / "photos" / "cat.jpg").write_bytes(b"cat")
    refused(config, tmp_path / "runs" / "photos", "not empty and holds no run", resume=True)
    refused(config, tmp_path / "runs" / "photos" / "cat.jpg", "is a file; --out must be a folder")


def test_other_threads_are_no_other_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    summary = train(Config(**tiny), tmp_path / "run")
    assert train(Config(**tiny | {"threads": 2}), tmp_path / "run", resume=True) == summary


def test_mistakes_leave_no_folder(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no such file"):
        train(Config(**tiny | {"text": ("nowhere",)}), tmp_path / "run")
    with pytest.raises(LabError, match="too short"):
        train(Config(**tiny | {"context": 10**6}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_process_a_folder(tiny: dict[str, Any], tmp_path: Path) -> None:
    with reserved(tmp_path / "run"), pytest.raises(LabError, match="another process is training here"):
        train(Config(**tiny), tmp_path / "run")


def test_changed_text_is_noticed(tiny: dict[str, Any], text: Path, tmp_path: Path) -> None:
    stop_after(6, Config(**tiny), tmp_path / "run")
    (text / "00.txt").write_text("another beginning")
    with pytest.raises(LabError, match="text has changed"):
        train(Config(**tiny), tmp_path / "run", resume=True)


def test_diverging_run_says_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"diverged: loss .* at step \d+; a lower --lr \(now 1e\+30\)"):
        train(Config(**tiny | {"lr": 1e30, "warmup": 0}), tmp_path / "run")


# --- interruptions ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_record(step: int, action: Callable[[], None]) -> Iterator[None]:
    """Within the block, do something right after the training record of `step` was written."""
    write = Metrics.write

    def acting(self: Metrics, at: int, kind: str, **values: float) -> None:
        write(self, at, kind, **values)
        if (at, kind) == (step, "train"):
            action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "write", acting)
        yield


class Killed(BaseException):
    """Falls through every handler, as SIGKILL would."""


def stop_after(step: int, config: Config, run: Path) -> None:
    """Train until the record of `step` is written, and fall over there."""

    def die() -> None:
        raise Killed

    with at_record(step, die), pytest.raises(Killed):
        train(config, run, resume=True)


@pytest.mark.parametrize("recipe", ["residual", "hc", "mhc"])
def test_resuming_is_exact_wherever_it_stopped(recipe: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**tiny | {"recipe": recipe})
    train(config, tmp_path / "reference")
    for stops in ([1], [4], [5], [7, 11], [12]):
        run = tmp_path / f"stopped-{stops}"
        for stop in stops:
            stop_after(stop, config, run)
        train(config, run, resume=True)
        assert_same_run(run, tmp_path / "reference")
        board = EventAccumulator(str(run / "tensorboard")).Reload()
        assert [event.step for event in board.Scalars("loss/train")] == list(range(1, 13))


def test_half_a_line_of_metrics_is_forgotten(tiny: dict[str, Any], tmp_path: Path) -> None:
    config, run = Config(**tiny), tmp_path / "run"
    train(config, tmp_path / "reference")
    stop_after(6, config, run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "kind": "tr')
    train(config, run, resume=True)
    assert_same_run(run, tmp_path / "reference")


def test_corrupt_newest_checkpoint_is_passed_over_and_said(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = Config(**tiny), tmp_path / "run"
    train(config, tmp_path / "reference")
    stop_after(10, config, run)
    (run / "checkpoints" / "step-000008" / "weights.safetensors").write_bytes(b"")
    train(config, run, resume=True)
    assert "warning: " in (said := capsys.readouterr().out)
    assert "corrupt checkpoint" in said
    assert "going on from step 4" in said
    assert_same_run(run, tmp_path / "reference")


def test_full_disk_keeps_the_previous_checkpoint(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = Config(**tiny), tmp_path / "run"
    train(config, tmp_path / "reference")
    write = files.write_durably

    def full(path: Path, content: bytes) -> None:
        if "step-000008" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_durably", full)
        with pytest.raises(OSError, match="No space left"):
            train(config, run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000004"]
    assert checkpoint.load_model(run)[1] == config
    train(config, run, resume=True)
    assert_same_run(run, tmp_path / "reference")


# --- interruptions of a whole process ---------------------------------------------------------------------------


def command(config: Config, run: Path) -> list[str]:
    return ["train", "--resume", "--out", str(run), *config.arguments()]


def start(config: Config, run: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "streammix.cli", *command(config, run)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until it holds or the process has ended."""
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.002)


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_at_any_moment(tiny: dict[str, Any], tmp_path: Path, seed: int) -> None:
    """SIGKILL a process again and again, mostly around its checkpoints; the curve comes out the same."""
    draw = random.Random(seed)
    changes = {"recipe": "mhc", "dim": 64, "steps": 40, "eval_every": 7, "checkpoint_every": 2}
    config, run = Config(**tiny | changes), tmp_path / "run"
    train(config, tmp_path / "reference")
    whole = lines(tmp_path / "reference")

    kills = 0
    for share in (0.0, 0.3, 0.6):
        process = start(config, run)
        target = int(whole * share) + draw.randint(1, whole // 5)
        wait_for(lambda target=target: lines(run) >= target, process)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        for path in checkpoint.steps(run):
            checkpoint.read(path)
    assert kills >= 2
    train(config, run, resume=True)
    assert_same_run(run, tmp_path / "reference")
    assert not list(run.rglob(f"{SCRATCH}*"))


@pytest.mark.parametrize("sent", STOP_SIGNALS)
def test_stop_signals_write_a_checkpoint_and_say_how_to_go_on(
    sent: signal.Signals, tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = Config(**tiny), tmp_path / "run"
    train(config, tmp_path / "reference")
    handler = signal.getsignal(sent)
    with at_record(7, lambda: os.kill(os.getpid(), sent)):
        assert cli.run(command(config, run)) == 130
    assert signal.getsignal(sent) is handler
    assert capsys.readouterr().err == (
        f"stopped after step 7 of 12, checkpoint written; the same command with --resume continues {run}\n"
    )
    assert [path.name for path in checkpoint.steps(run)] == ["step-000004", "step-000007"]
    assert cli.run(command(config, run)) == 0
    assert_same_run(run, tmp_path / "reference")


@pytest.mark.parametrize(("limit", "file"), [(100_000, "safetensors"), (2_000, "tfevents")])
def test_file_size_limit_reached(
    limit: int, file: str, tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real failure of write(), without a disk to fill: one line, exit code 2, nothing half-written."""
    config, run = Config(**tiny | {"dim": 64, "steps": 40, "checkpoint_every": 35}), tmp_path / "run"
    train(Config(**tiny), tmp_path / "other")  # caches the text
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        assert cli.run(command(config, run)) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert file in said
    assert said.endswith(f"{os.strerror(errno.EFBIG)}\n")
    assert said.count("\n") == 1
    assert not checkpoint.steps(run)
    assert not list(run.rglob(f"{SCRATCH}*"))
    assert all(line.endswith(b"\n") for line in (run / "metrics.jsonl").read_bytes().splitlines(keepends=True))
    train(config, run, resume=True)


def test_signals_that_nohup_ignores_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with delayed_interrupt() as asked_to_stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked_to_stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked_to_stop()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
