"""Tables: each arm at its own best rate, differences of paired seeds, and nothing that the runs do not say."""

from pathlib import Path
from typing import Any

import pytest

from streammix.lab.experiment.commands import show
from streammix.lab.experiment.markdown import markdown
from streammix.lab.experiment.plan import Experiment
from streammix.lab.experiment.reading import parse
from streammix.lab.experiment.results import RESULTS
from streammix.lab.experiment.tables import summarise
from streammix.lab.statistics import paired

SOURCE = """
title = "Three arms"
about = "Which is lowest?"
recipes = ["residual", "mhc", "hc"]
compared_with = ["residual", "mhc"]
lrs = [1e-3, 2e-3, 4e-3]
seeds = [0, 1, 2]
tuning_seeds = 2
[settings]
dim = 16
heads = 2
layers = 1
"""

# Validation losses at the rates 1e-3, 2e-3 and 4e-3: of the seeds 0 and 1, and of seed 2 at the best rate.
LOSSES = {
    "residual": ([3.0, 3.1, 2.0], [3.0, 2.9, 2.2], 2.1),
    "mhc": ([2.9, 1.8, 2.5], [2.9, 2.0, None], 1.95),  # None: diverged
    "hc": ([1.0, 2.0, 3.0], [2.5, 2.1, 3.0], 2.4),
}


def results_of(experiment: Experiment) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for case in experiment.cases:
        *tuning, last = LOSSES[case.arm]
        best = min(case.lrs, key=lambda lr: sum(seed[case.lrs.index(lr)] or float("inf") for seed in tuning))
        losses = {(lr, seed): tuning[seed][i] for i, lr in enumerate(case.lrs) for seed in (0, 1)} | {(best, 2): last}
        for (lr, seed), loss in losses.items():
            run = case.run(lr, seed)
            made[run.key] = result(run.key, case.arm, lr, seed, loss)
    return made


def result(key: str, arm: str, lr: float, seed: int, loss: float | None) -> dict[str, Any]:
    about = {"key": key, "name": f"{arm}_{lr}_{seed}", "arm": arm, "group": "", "lr": lr, "seed": seed}
    about |= {"data_sha256": "abc", "recipe": arm}
    if loss is None:
        return about | {"status": "diverged", "reason": "training diverged"}
    about |= dict.fromkeys(("train_loss", "tokens_per_s", "seconds", "grad_norm_median"), 1.0)
    about |= {"grad_norm_last": 1.0, "grad_norm_max": 1.0, "steps": 3, "streams": 4, "peak_memory_bytes": 1}
    return about | {"status": "finished", "val_loss": loss, "parameters": 1000, "connection_parameters": 10}


@pytest.fixture
def experiment() -> Experiment:
    return parse(SOURCE, Path("/"))


def test_each_arm_is_taken_at_its_own_best_rate(experiment: Experiment) -> None:
    table = summarise(experiment, results_of(experiment))
    rows = {row["arm"]: row for row in table["rows"]}
    assert {arm: (row["lr"], row["lr_at"]) for arm, row in rows.items()} == {
        "residual": (4e-3, "highest"),
        "mhc": (2e-3, None),
        "hc": (1e-3, "lowest"),
    }
    assert rows["mhc"]["val_loss"] == pytest.approx((1.8 + 2.0 + 1.95) / 3)
    assert rows["mhc"]["by_lr"]["0.004"] == {"val_loss": 2.5, "seeds": 2, "diverged": 1}
    assert (table["runs"], table["ended"], table["diverged"]) == (21, 21, 1)


def test_differences_are_those_of_paired_seeds(experiment: Experiment) -> None:
    rows = {row["arm"]: row for row in summarise(experiment, results_of(experiment))["rows"]}
    expected = paired({0: 1.8, 1: 2.0, 2: 1.95}, {0: 2.0, 1: 2.2, 2: 2.1})
    assert expected is not None
    found = rows["mhc"]["difference"]
    assert list(found) == ["residual"]
    assert (found["residual"]["low"], found["residual"]["high"]) == (expected.low, expected.high)
    assert found["residual"]["verdict"] == expected.verdict == "lower"
    assert rows["hc"]["difference"]["residual"]["verdict"] == "can't tell"
    assert list(rows["residual"]["difference"]) == ["mhc"]
    text = markdown(summarise(experiment, results_of(experiment)))
    assert f"-0.1833 [{expected.low:+.4f}, {expected.high:+.4f}]: lower" in text
    assert "can't tell" in text
    assert "0.004 (highest tried)" in text
    assert "1 of 2 diverged" in text


def test_an_unfinished_experiment_says_no_more_than_it_knows(experiment: Experiment) -> None:
    results = results_of(experiment)
    for case in experiment.cases[1:]:
        del results[case.run(1e-3, 1).key]  # so that no rate is chosen
    results = {key: one for key, one in results.items() if one["seed"] < 2}
    table = summarise(experiment, results)
    assert [row["lr"] for row in table["rows"]] == [4e-3, None, None]
    assert [row["val_loss"] is None for row in table["rows"]] == [False, True, True]
    assert all(row["difference"] == {} for row in table["rows"])
    assert "16 of 21 runs have ended" in markdown(table)
    assert "| residual |" in markdown(summarise(experiment, {}))


def test_one_seed_is_no_interval(experiment: Experiment) -> None:
    source = SOURCE.replace("seeds = [0, 1, 2]", "seeds = [0]").replace("tuning_seeds = 2", "")
    one = parse(source, Path("/"))
    results = {
        run.key: result(run.key, run.arm, run.config.lr, 0, LOSSES[run.arm][0][list(case.lrs).index(run.config.lr)])
        for case in one.cases
        for run in [case.run(lr, 0) for lr in case.lrs]
    }
    assert "-0.2000: can't tell (1 seed)" in markdown(summarise(one, results))


def test_a_folder_of_results_is_enough_for_its_table(
    experiment: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    (tmp_path / "experiment.toml").write_text(SOURCE)
    lines = [json.dumps(one) for one in results_of(experiment).values()]
    (tmp_path / RESULTS).write_text("\n".join(reversed(lines)) + "\n")
    show(tmp_path)
    assert capsys.readouterr().out.startswith("# Three arms\n\nWhich is lowest?\n\n21 of 21 runs have ended, 1 of them")
    assert json.loads((tmp_path / "table.json").read_text()) == summarise(experiment, results_of(experiment))
    assert (tmp_path / "table.md").read_text() == markdown(summarise(experiment, results_of(experiment)))
    assert sorted((tmp_path / RESULTS).read_text().splitlines()) == sorted(lines)
