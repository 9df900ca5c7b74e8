"""Comparisons: each recipe in its own process and folder, none of them twice."""

import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from streammix.lab import compare as comparison
from streammix.lab import text as texts
from streammix.lab.compare import compare, table
from streammix.lab.config import Config, read_config
from streammix.lab.errors import LabError
from streammix.lab.text.bigram import bigram_loss
from streammix.lab.training import checkpoint
from streammix.lab.training.metrics import read_metrics
from streammix.lab.training.train import train


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs happen here instead of in processes of their own; returns the names of those begun."""
    begun: list[str] = []

    def run(config: Config, out: Path) -> None:
        begun.append(config.recipe)
        train(config, out, resume=True)

    monkeypatch.setattr(comparison, "run_in_own_process", run)
    return begun


def rendered(result: dict[str, Any]) -> str:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(result))
    return captured.get()


def test_own_processes_same_data_seed_and_budget(tiny: dict[str, Any], tmp_path: Path) -> None:
    config, out = Config(**tiny), tmp_path / "out"
    result = compare(config, ["residual", "mhc"], out)
    assert json.loads((out / "compare.json").read_text()) == result
    assert list(result["runs"]) == ["residual", "mhc"]
    for name, summary in result["runs"].items():
        assert summary["recipe"] == name
        assert summary["data_sha256"] == result["data"]["sha256"]
        assert read_config(out / name / "config.json") == Config(**tiny | {"recipe": name})
    corpus = texts.load(config.text)
    assert result["bigram_val_loss"] == bigram_loss(corpus.train, texts.val_batches(corpus, config))
    first = [json.loads((out / name / "metrics.jsonl").read_text().splitlines()[0]) for name in result["runs"]]
    assert abs(first[0]["loss"] - first[1]["loss"]) < 1e-5  # both start as the same model

    shown = rendered(result)
    for number in (result["bigram_val_loss"], *(run["val_loss"] for run in result["runs"].values())):
        assert f"{number:.4f}" in shown
    assert f"{result['runs']['mhc']['parameters']:,}" in shown


def test_goes_on_and_repeats_nothing(tiny: dict[str, Any], tmp_path: Path, in_process: list[str]) -> None:
    config, out = Config(**tiny), tmp_path / "out"
    first = compare(config, ["residual", "ihc"], out)
    assert in_process == ["residual", "ihc"]
    again = compare(config, ["residual", "hc", "ihc"], out)
    assert in_process == ["residual", "ihc", "hc"]
    assert list(again["runs"]) == ["residual", "hc", "ihc"]
    assert again["runs"]["ihc"] == first["runs"]["ihc"]
    compare(config, ["hc", "hc"], out, fresh=True)
    assert in_process == ["residual", "ihc", "hc", "hc"]
    assert (out / "residual" / "summary.json").exists()  # not asked for, not deleted


def test_stopped_run_is_on_record(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: Config, out: Path) -> None:
        if config.recipe == "hc":
            raise KeyboardInterrupt
        train(config, out)

    monkeypatch.setattr(comparison, "run_in_own_process", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(Config(**tiny), ["residual", "hc"], tmp_path / "out")
    assert list(json.loads((tmp_path / "out" / "compare.json").read_text())["runs"]) == ["residual"]


def test_refusals_change_nothing(tiny: dict[str, Any], text: Path, tmp_path: Path, in_process: list[str]) -> None:
    config, out = Config(**tiny), tmp_path / "out"
    compare(config, ["residual"], out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(LabError, match=r"differs in: --lr 0\.1 \(there: 0\.003\); add --fresh"):
        compare(Config(**tiny | {"lr": 0.1}), ["residual"], out)
    with pytest.raises(LabError, match="not empty and holds no comparison"):
        compare(config, ["residual"], text)
    with pytest.raises(LabError, match="is a file"):
        compare(config, ["residual"], text / "00.txt")
    with pytest.raises(LabError, match="recipe is 'hcc'; accepted: residual, hc,"):
        compare(config, ["residual", "hcc"], tmp_path / "new")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()

    (text / "00.txt").write_text("another beginning")
    with pytest.raises(LabError, match="differs in: the text's content"):
        compare(config, ["residual"], out)
    assert in_process == ["residual"]


def test_interrupt_reaches_the_run_under_way(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Ctrl-C on a comparison: the run's own process writes its checkpoint, and both end with 130."""
    config, out = (
        Config(**tiny | {"steps": 100_000, "checkpoint_every": 99_999, "eval_every": 50_000}),
        tmp_path / "out",
    )
    words = [word for word in config.arguments() if word not in ("--recipe", "residual")]
    command = [sys.executable, "-m", "streammix.cli", "compare", "--recipes", "residual", "--out", str(out), *words]
    # where the tests run in the background, the shell has made them, and what they start, deaf to Ctrl-C
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    metrics = out / "residual" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 1000):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said == f"stopped; the same command continues {out}\n"
    (path,) = checkpoint.steps(out / "residual")
    assert checkpoint.read(path).step == read_metrics(out / "residual")[-1]["step"] > 0


@pytest.mark.parametrize("content", ["[]", "{}", "{"])
def test_damaged_record(content: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.json").write_text(content)
    with pytest.raises(LabError, match=r"compare\.json: not"):
        compare(Config(**tiny), ["residual"], tmp_path / "out")


def test_failing_run_says_which_and_why(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"^residual: training diverged: loss .* at step \d+; a lower --lr"):
        compare(Config(**tiny | {"lr": 1e30, "warmup": 0}), ["residual"], tmp_path / "out")
