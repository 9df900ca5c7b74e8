"""The page of runs from anywhere: how they are sorted, what its curves hold, and what is damaged."""

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from html_page import Page, trace

from streammix import cli
from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.files import read_json, write_json
from streammix.lab.report.clocks import clocks
from streammix.lab.report.comparison import Run
from streammix.lab.report.course import CELLS, course, thinned
from streammix.lab.report.families import families, label, read_runs
from streammix.lab.report.page import plotly
from streammix.lab.report.runs_page import write_runs
from streammix.lab.training.diagnosis import read_diagnoses
from streammix.lab.training.metrics import read_metrics


@pytest.fixture(scope="module")
def page(many_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_runs([many_runs], tmp_path_factory.mktemp("page") / "runs.html"))


@pytest.fixture
def copy(many_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(many_runs, tmp_path / "runs"))


def loss(run: Path) -> float:
    return read_json(run / "summary.json")["val_loss"]


def test_runs_are_sorted_by_what_differs(many_runs):
    found = read_runs([many_runs])
    assert found.notes == []
    sorted_ = {family.name: {one.lr: len(one.runs) for one in family.series} for family in found.families}
    assert sorted_ == {"residual": {0.01: 1}, "hc": {0.01: 1}, "mhc": {0.01: 2, 0.03: 1}}
    mhc = found.families[-1]
    assert mhc.best.lr == 0.01  # of which more seeds ended


def test_a_run_that_is_named_twice_counts_once(many_runs):
    again = read_runs([many_runs / "mhc-0.01-0", many_runs, many_runs / "mhc-0.01-0"])
    assert sum(1 for _ in again.all()) == 5
    assert again.families[0].name == "residual"


def test_other_settings_are_in_the_name():
    config = Config(recipe="mhc", dim=64, bf16=True, text=("/a/b.txt",))
    assert label(config, ["dim", "bf16", "text", "manifold"]) == "mhc, dim 64, bf16, text b.txt"
    assert label(Config(), ["bf16", "eval_batches", "text"]) == "mhc, no bf16, eval batches 16, text by default"
    runs = [Run(str(i), Path(), config=Config(dim=dim, seed=i)) for i, dim in enumerate((64, 64, 128))]
    assert [family.name for family in families(runs)] == ["mhc, dim 64", "mhc, dim 128"]


def test_the_curves_are_those_of_the_runs(many_runs, page):
    line = trace(page.figure("Validation loss"), "mhc, mean")
    losses = [[r["loss"] for r in read_metrics(many_runs / f"mhc-0.01-{s}") if r["kind"] == "val"] for s in (0, 1)]
    assert line["x"] == [0, 4, 8, 12]
    assert line["y"] == pytest.approx([statistics.fmean(values) for values in zip(*losses)])
    rates = trace(page.figure("Loss against learning rate"), "mhc")
    ended = [loss(many_runs / f"mhc-0.01-{s}") for s in (0, 1)]
    assert rates["x"] == [0.01, 0.03]
    assert rates["y"] == pytest.approx([statistics.fmean(ended), loss(many_runs / "mhc-0.03-0")])
    assert rates["error_y"]["array"] == pytest.approx([max(ended) - statistics.fmean(ended), 0])
    over = ended[0] - loss(many_runs / "residual-0.01-0")
    assert trace(page.figure("Validation loss, relative to the plain residual"), "mhc, mean")["y"][-1] == pytest.approx(
        over
    )
    shown = f"{statistics.fmean(ended):.4f} ± {statistics.stdev(ended):.4f}"
    assert f"<td>{shown}</td>" in page.source


def test_the_course_is_what_was_logged(many_runs, page):
    logged = [read_diagnoses(many_runs / f"mhc-0.01-{seed}") for seed in (0, 1)]
    line = trace(page.figure("Forward gain while training"), "mhc, mean")
    assert line["x"] == [0, 4, 8, 12]
    assert line["y"] == pytest.approx(
        [statistics.fmean(float(one[s].gains.forward[-1]) for one in logged) for s in line["x"]]
    )
    depth = trace(page.figure("Streams read by depth"), "mhc")
    frames = depth["meta"]["frames"]
    for step, frame in zip((0, 4, 8, 12), frames, strict=True):
        assert frame == pytest.approx(logged[0][step].measures["effective_read"].tolist(), rel=6e-3)
    assert depth["y"] == frames[-1]
    assert page.data["course"]["steps"] == [0, 4, 8, 12]
    read, write, mix = page.data["course"]["maps"]["mhc"][2]
    torch.testing.assert_close(torch.tensor(mix).double(), logged[0][8].mix, rtol=6e-3, atol=1e-12)
    torch.testing.assert_close(torch.tensor(read).double(), logged[0][8].read, rtol=6e-3, atol=1e-12)
    torch.testing.assert_close(torch.tensor(write).double(), logged[0][8].write, rtol=6e-3, atol=1e-12)
    spectrum = page.figure("Spectrum of the composite map")
    assert trace(spectrum, "hc")["y"] == pytest.approx(
        read_diagnoses(many_runs / "hc-0.01-0")[12].composite[-1].tolist(), rel=6e-3
    )
    assert trace(spectrum, "hc, predicted")["y"] == pytest.approx(
        read_diagnoses(many_runs / "hc-0.01-0")[12].predicted().tolist(), rel=6e-3
    )


def test_clocks_are_those_of_the_runs(many_runs, page):
    clock = page.data["clocks"][""]["mhc"]
    records = [[r for r in read_metrics(many_runs / f"mhc-0.01-{s}") if r["kind"] == "train"] for s in (0, 1)]
    assert clock["step"] == [0, *range(1, 13)]
    assert clock["tokens"] == [0, *(32 * step for step in range(1, 13))]
    seconds = [statistics.fmean(pair) for pair in zip(*([r["seconds"] for r in one] for one in records))]
    assert clock["seconds"][1:] == pytest.approx(seconds, rel=1e-5)
    assert clocks([("none", [Run("none", Path())])]) == {}


def test_the_page_is_light_and_fetches_nothing(page):
    size = len(page.source.encode())
    assert size < 2_000_000
    assert size - len(plotly().encode()) < 200_000
    assert "plotly.js (basic - minified) v" in page.source
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), (tag, attributes)
        assert not {"src", "href", "srcset", "action"} & attributes.keys(), (tag, attributes)
    for figure in page.data["figures"]:
        assert go.Figure(figure).data


def test_the_bundle_is_the_release_that_the_figures_are_made_for():
    import plotly as library
    from plotly.offline import get_plotlyjs_version

    said = plotly()[:200].partition(" v")[2].split()[0]
    assert said == get_plotlyjs_version(), f"plotly {library.__version__} came with another plotly.js: renew the bundle"


def test_a_stopped_and_a_diverged_run_are_shown_as_far_as_they_came(copy):
    (copy / "mhc-0.01-1" / "summary.json").unlink()
    lines = (copy / "mhc-0.01-1" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "mhc-0.01-1" / "metrics.jsonl").write_text("".join(lines[:9]))
    first = {"text": "the branch's output at site 1 (stack.sites.0): 3 NaN of 9 numbers"}
    write_json(copy / "mhc-0.01-1" / "diverged.json", {"step": 9, "loss": "nan", "grad_norm": "nan", "first": first})
    (copy / "hc-0.01-0" / "diagnostics.jsonl").write_text('{"step": 4}\nnonsense\n')
    (copy / "residual-0.01-0" / "config.json").write_text("[]")
    page = Page(write_runs([copy], copy / "runs.html"))
    assert "1 of 4 runs have not ended" in page.text
    assert "diverged at step 9 with loss nan, first in the branch's output at site 1 (stack.sites.0)" in page.text
    assert "holds a JSON list" in page.text
    assert trace(page.figure("Validation loss"), "hc, mean")
    assert set(page.data["course"]["maps"]) == {"mhc"}


def test_without_diagnostics_the_curves_remain(copy):
    for path in copy.glob("*/diagnostics.jsonl"):
        path.unlink()
    page = Page(write_runs([copy], copy / "runs.html"))
    assert page.data["course"] is None
    assert "while training" not in page.text
    assert not [1 for _, attributes in page.tags if "data-steps" in attributes]


def test_names_cannot_break_out_of_the_page(copy):
    odd = copy / '<img src=x onerror=alert(1)> " onclick="x'
    shutil.copytree(copy / "hc-0.01-0", odd)
    page = Page(write_runs([copy], copy / "runs.html"))
    assert "img" not in {tag for tag, _ in page.tags}
    assert not any("onclick" in attributes or "onerror" in attributes for _, attributes in page.tags)
    assert odd.name in page.text


def test_a_slider_has_few_places_and_long_maps_fewer():
    assert thinned(range(0, 1000, 10), 25) == [i * 99 // 24 * 10 for i in range(25)]
    assert thinned([0, 5], 25) == [0, 5]
    assert course({"a": {}}) is None


def test_runs_measured_at_other_steps_share_the_slider(many_runs):
    diagnoses = read_diagnoses(many_runs / "mhc-0.01-0")
    made = course({"all": diagnoses, "some": {step: diagnoses[step] for step in (4, 12)}})
    assert made.steps == [0, 4, 8, 12]
    assert made.at["some"] == [diagnoses[4], diagnoses[4], diagnoses[4], diagnoses[12]]
    assert math.prod(diagnoses[0].mix.shape) < CELLS


@pytest.mark.parametrize(
    ("folders", "out", "message"),
    [
        (["missing"], "page.html", "no such folder"),
        (["empty"], "page.html", "holds no run"),
        (["empty"], "page.pdf", "ends in .html"),
        (["empty"], "nowhere/page.html", "in a folder that exists"),
    ],
)
def test_bad_arguments_write_nothing(folders: list[str], out: str, message: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match=message):
        write_runs([tmp_path / folder for folder in folders], tmp_path / out)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_the_command(many_runs, tmp_path, capsys: Any):
    out = tmp_path / "page.html"
    assert cli.run(["report", str(many_runs / "mhc-0.01-0"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Page: {out}\n"
    assert json.loads((many_runs / "mhc-0.01-0" / "summary.json").read_text())["recipe"] in Page(out).text
    assert cli.run(["report", str(tmp_path / "none"), "--out", str(out)]) == 2
