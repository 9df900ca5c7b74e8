"""What a run's diagnostics.jsonl holds, that it changes nothing, and what a diverged run leaves."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from streammix.lab import text as texts
from streammix.lab.config import Config
from streammix.lab.errors import Diverged
from streammix.lab.model import GPT
from streammix.lab.training import checkpoint, diagnosis, divergence
from streammix.lab.training import train as training
from streammix.lab.training.diagnosis import from_line, measure, probe, read_diagnoses, to_line
from streammix.lab.training.divergence import reason
from streammix.lab.training.metrics import read_metrics
from streammix.lab.training.train import train


def summary_of(config: Config) -> Any:
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    return measure(model, torch.randint(256, (2, config.context)))


def test_a_run_is_measured_every_so_many_steps_and_computes_the_same(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = tiny | {"recipe": "mhc"}
    config = Config(**settings | {"diagnose_every": 5})
    train(config, tmp_path / "with")
    train(Config(**settings | {"diagnose_every": 0}), tmp_path / "without")
    assert not (tmp_path / "without" / diagnosis.NAME).exists()
    with_, without = ([r["loss"] for r in read_metrics(tmp_path / name)] for name in ("with", "without"))
    assert with_ == without
    weights = [checkpoint.latest(tmp_path / name)[0].weights for name in ("with", "without")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    found = read_diagnoses(tmp_path / "with")
    assert list(found) == [0, 5, 10, 12]
    model, config = checkpoint.load_model(tmp_path / "with")
    expected = measure(model, probe(texts.load(config.text), config))
    for name in ("read", "write", "mix", "spectra", "composite", "rank"):
        torch.testing.assert_close(getattr(found[12], name), getattr(expected, name), rtol=1e-4, atol=1e-9)
    for name, values in expected.measures.items():
        torch.testing.assert_close(found[12].measures[name], values, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(found[12].gains.backward_norm, expected.gains.backward_norm, rtol=1e-4, atol=0)


def test_a_resumed_run_has_each_measurement_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**tiny | {"recipe": "hc", "diagnose_every": 3})
    train(config, tmp_path / "whole")
    train(config, tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    checkpoint.discard_folder(checkpoint.steps(tmp_path / "cut")[-1])  # leaves that of step 8
    with open(tmp_path / "cut" / diagnosis.NAME, "a") as file:
        file.write('{"step": 99}\nnonsense\n{"ste')
    train(config, tmp_path / "cut", resume=True)
    assert list(read_diagnoses(tmp_path / "cut")) == [0, 3, 6, 9, 12]
    lines = [(tmp_path / name / diagnosis.NAME).read_bytes() for name in ("whole", "cut")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("recipe", ["residual", "frac", "xhc"])
def test_models_without_maps_are_not_measured(recipe: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    train(Config(**tiny | {"recipe": recipe, "steps": 2}), tmp_path / "run")
    assert not (tmp_path / "run" / diagnosis.NAME).exists()


def test_a_line_is_read_as_it_was_written(tiny: dict[str, Any], seed: int) -> None:
    summary = summary_of(Config(**tiny | {"recipe": "mhc"}))
    summary.measures["dobrushin"][1] = math.nan
    summary.gains.forward[0] = math.inf
    step, found = from_line(to_line(7, summary))
    assert (step, found.sites, found.tokens) == (7, summary.sites, summary.tokens)
    assert found.measures["dobrushin"][1].isnan()
    assert found.gains.forward[0].isnan()
    torch.testing.assert_close(found.mix, summary.mix, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "1"},
        {"sites": []},
        {"sites": [1, 2, 3, 4]},
        {"read": [[1.0]]},
        {"mix": "x"},
        {"measures": {"a": [1.0]}},
        {"gains": {}},
        {"tokens": 1.5},
    ],
)
def test_damaged_lines_are_none(change: dict[str, Any], tiny: dict[str, Any], seed: int) -> None:
    line = to_line(7, summary_of(Config(**tiny | {"recipe": "mhc"})))
    assert from_line(line) is not None
    assert from_line(json.dumps(json.loads(line) | change).encode()) is None
    assert from_line(line[:-9]) is None


def test_a_diverged_run_names_site_and_step_and_keeps_what_there_is(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 7 on the branch of site 3 returns a NaN."""
    config, run, steps = Config(**tiny | {"recipe": "mhc", "diagnose_every": 5}), tmp_path / "run", []
    shares = training.shares

    def failing(model: GPT, *args: Any) -> Iterator[torch.Tensor]:
        steps.append(args[2])
        if args[2] == 7:
            model.stack[2].branch.out.register_forward_hook(lambda module, inputs, out: out * math.nan)
        return shares(model, *args)

    monkeypatch.setattr(training, "shares", failing)
    with pytest.raises(
        Diverged, match=r"loss nan, .* at step 7; .*first not finite: the branch's output at site 3 \("
    ) as error:
        train(config, run)
    assert "stack.sites.2" in str(error.value)
    assert "checkpoint of step 6" in str(error.value)
    saved = json.loads((run / divergence.NAME).read_text())
    assert (saved["step"], saved["loss"]) == (7, "nan")
    assert (saved["first"]["name"], saved["first"]["what"]) == ("stack.sites.2", "branch")
    assert checkpoint.latest(run)[0].step == 6
    assert [r["step"] for r in read_metrics(run) if r["kind"] == "train"] == list(range(1, 7))
    assert list(read_diagnoses(run)) == [0, 5, 6]
    assert reason(run).startswith("diverged at step 7 with loss nan, first in the branch's output at site 3")
    assert not (run / "summary.json").exists()

    monkeypatch.setattr(training, "shares", shares)
    train(config, run, resume=True)
    assert not (run / divergence.NAME).exists()
    assert reason(run) == ""


def test_a_plain_residual_that_diverges_says_that_it_has_no_sites(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="no sites to look at"):
        train(Config(**tiny | {"lr": 1e30, "warmup": 0}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / divergence.NAME).read_text())["first"] is None
