"""Sweeps: every recipe with every seed, their mean and spread, and nothing trained twice."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from streammix.lab import compare as comparison
from streammix.lab.config import Config, choices
from streammix.lab.errors import LabError
from streammix.lab.sweep import sweep
from streammix.lab.sweep_tables import print_tables
from streammix.lab.training.train import train

NAMES = ["residual", "frac", "deepseek-v4.1"]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, bool]]:
    """Runs happen here instead of in processes of their own; returns those begun."""
    begun: list[tuple[str, int, bool]] = []

    def run(config: Config, out: Path) -> None:
        begun.append((config.recipe, config.seed, config.bf16))
        train(config, out, resume=True)

    monkeypatch.setattr(comparison, "run_in_own_process", run)
    return begun


@pytest.fixture
def settings(tiny: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tiny.items() if name != "recipe"}


def test_every_connection_seed_and_precision_once(
    settings: dict[str, Any], tmp_path: Path, in_process: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result = sweep(settings, NAMES, ["0", "3"], ["float32", "bf16"], out)
    everything = [(name, seed, bf16) for bf16 in (False, True) for seed in (0, 3) for name in NAMES]
    assert in_process == everything
    assert json.loads((out / "sweep.json").read_text()) == result
    assert result["failed"] == {}
    assert [(row["precision"], row["recipe"]) for row in result["rows"]] == [
        (precision, name) for precision in ("float32", "bf16") for name in NAMES
    ]
    row = result["rows"][1]
    runs = [json.loads((out / f"float32/seed-{seed}/frac/summary.json").read_text()) for seed in (0, 3)]
    losses = [run["val_loss"] for run in runs]
    assert losses[0] != losses[1]
    assert row["val_loss"] == pytest.approx(statistics.fmean(losses))
    assert row["val_loss_spread"] == pytest.approx(statistics.stdev(losses))
    plain = [json.loads((out / f"float32/seed-{seed}/residual/summary.json").read_text()) for seed in (0, 3)]
    over = [loss - run["val_loss"] for loss, run in zip(losses, plain)]
    assert row["over_residual"] == pytest.approx(statistics.fmean(over))
    assert row["over_residual_spread"] == pytest.approx(statistics.stdev(over))
    assert result["rows"][0]["over_residual"] is None
    assert row["grad_norm_max"] == max(run["grad_norm_max"] for run in runs)
    assert row["below_bigram"] == (max(losses) < result["bigram_val_loss"]["float32"])
    print_tables(result)
    shown = capsys.readouterr().out
    page = (out / "sweep.md").read_text()
    for row in result["rows"]:
        assert f"{row['val_loss']:.4f} ± {row['val_loss_spread']:.4f}" in shown
        assert f"| {row['recipe']} | {row['streams']} |" in page
        assert f" | {row['val_loss']:.4f} ± {row['val_loss_spread']:.4f} | " in page

    assert sweep(settings, NAMES, ["0", "3"], ["float32", "bf16"], out) == result
    assert in_process == everything


def test_goes_on_where_it_was_stopped(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: list[Any]
) -> None:
    run = comparison.run_in_own_process

    def stops(config: Config, out: Path) -> None:
        if config.recipe == "frac" and config.seed == 1:
            raise KeyboardInterrupt
        run(config, out)

    monkeypatch.setattr(comparison, "run_in_own_process", stops)
    with pytest.raises(KeyboardInterrupt):
        sweep(settings, NAMES, ["0", "1"], ["float32"], tmp_path / "out")
    assert len(in_process) == 4
    monkeypatch.setattr(comparison, "run_in_own_process", run)
    result = sweep(settings, NAMES, ["0", "1"], ["float32"], tmp_path / "out")
    assert in_process[4:] == [("frac", 1, False), ("deepseek-v4.1", 1, False)]
    assert [row["seeds"] for row in result["rows"]] == [2, 2, 2]


def test_a_failing_run_does_not_stop_the_others(
    settings: dict[str, Any], tmp_path: Path, in_process: list[Any]
) -> None:
    result = sweep(settings | {"dim": 12, "heads": 2, "streams": 8}, NAMES, ["0"], ["float32"], tmp_path / "out")
    assert [row["recipe"] for row in result["rows"]] == ["residual", "deepseek-v4.1"]
    assert list(result["failed"]) == ["float32/0/frac"]
    assert "dim: got 12" in result["failed"]["float32/0/frac"]
    assert result["rows"][0]["val_loss_spread"] is None


@pytest.mark.parametrize(
    ("names", "seeds", "precisions", "message"),
    [
        (["mcc"], ["0"], ["float32"], "recipe is 'mcc'; accepted: residual"),
        (["mhc"], ["one"], ["float32"], "--seeds has 'one'; accepted: integers"),
        (["mhc"], ["0"], ["fp8"], "--precisions has 'fp8'; accepted: float32, bf16"),
    ],
)
def test_mistakes_are_found_before_any_work(
    names: list[str], seeds: list[str], precisions: list[str], message: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(LabError, match=message):
        sweep(settings, names, seeds, precisions, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_means_every_connection(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def fails(config: Config, out: Path) -> None:
        begun.append(config.recipe)
        raise LabError("no")

    monkeypatch.setattr(comparison, "run_in_own_process", fails)
    result = sweep(settings, ["all"], ["0"], ["float32"], tmp_path / "out")
    assert tuple(begun) == choices()
    assert len(result["failed"]) == len(begun)
    assert result["rows"] == []
