"""The page of a sweep of real, tiny runs: whole, cut short and damaged."""

import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from html_page import Page, trace

from streammix.lab import compare as comparing
from streammix.lab.config import Config, choices
from streammix.lab.errors import LabError
from streammix.lab.files import read_json, write_json
from streammix.lab.report.about import about_sweep
from streammix.lab.report.comparison import Comparison, Run
from streammix.lab.report.plots_seeds import over_seeds, train_loss
from streammix.lab.report.style import Palette
from streammix.lab.report.sweep_folder import read_sweep
from streammix.lab.report.sweep_page import write_sweep
from streammix.lab.sweep import sweep
from streammix.lab.training.metrics import read_metrics
from streammix.lab.training.train import train

RECIPES, SEEDS = ["residual", "mhc"], [0, 1]
HOSTILE = ["<!--<script>", '" onclick="x', "<img src=x onerror=alert(1)>", "</script>".replace("/", "&"), "{{ 7 * 6 }}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two recipes with two seeds, as `streammix sweep` leaves it."""
    root = tmp_path_factory.mktemp("sweep")
    text = root / "text.txt"
    text.write_text("".join(f"the {i}th of {i * i} words, and so on\n" for i in range(600)))
    settings: dict[str, Any] = {"text": (str(text),), "dim": 16, "layers": 2, "heads": 2, "context": 16}
    settings |= {"batch": 2, "steps": 12, "warmup": 2, "eval_every": 4, "checkpoint_every": 6, "threads": 1}
    settings |= {"diagnose_every": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMMIX_CACHE", str(root / "cache"))
        patch.setattr(comparing, "run_in_own_process", lambda config, out: train(config, out, resume=True))
        sweep(settings, RECIPES, [str(seed) for seed in SEEDS], ["float32"], root / "runs")
    return root / "runs"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.fixture(scope="module")
def whole(finished: Path) -> Page:
    """The page that the sweep itself has written."""
    return Page(finished / "sweep.html")


def run(out: Path, seed: int, name: str) -> Path:
    return out / "float32" / f"seed-{seed}" / name


def val(out: Path, seed: int, name: str) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run(out, seed, name)) if record["kind"] == "val"]


def folders(page: Page) -> list[str]:
    return re.findall(r'<td class="folder"><code>([^<]+)</code>', page.source)


# --- a whole sweep ----------------------------------------------------------------------------------------------


def test_tables_hold_mean_and_standard_deviation(finished, whole):
    losses = {name: [val(finished, seed, name)[-1]["loss"] for seed in SEEDS] for name in RECIPES}
    for values in losses.values():
        assert f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}" in whole.text
    over = [mine - base for mine, base in zip(losses["mhc"], losses["residual"])]
    shown = f"{statistics.fmean(over):+.4f} ± {statistics.stdev(over):.4f}".replace("-", "−")
    assert f"<td>{shown}</td>" in whole.source
    assert f"<td>{sum(value < 0 for value in over)} of 2</td>" in whole.source
    best = min(losses, key=lambda name: statistics.fmean(losses[name]))
    assert f"float32: {best} has the lowest validation loss" in whole.text
    assert "have not ended" not in whole.text


def test_every_run_has_its_folder(finished, whole):
    assert folders(whole) == [str(run(finished, seed, name)) for seed in SEEDS for name in RECIPES]


def test_bands_lie_around_the_mean_of_the_seeds(finished, whole):
    curves = [[record["loss"] for record in val(finished, seed, "mhc")] for seed in SEEDS]
    figure = whole.figure("Validation loss, float32")
    for label, fold in (("mean", statistics.fmean), ("lowest seed", min), ("highest seed", max)):
        drawn = trace(figure, f"mhc, {label}")
        assert drawn["x"] == [0, 4, 8, 12]
        assert drawn["y"] == pytest.approx([fold(values) for values in zip(*curves)])


def test_differences_are_to_the_residual_of_the_same_seed(finished, whole):
    over = [
        [mine["loss"] - base["loss"] for mine, base in zip(val(finished, seed, "mhc"), val(finished, seed, "residual"))]
        for seed in SEEDS
    ]
    figure = whole.figure("Validation loss, float32, relative to the plain residual")
    for label, fold in (("mean", statistics.fmean), ("lowest seed", min), ("highest seed", max)):
        drawn = trace(figure, f"mhc, {label}")
        assert drawn["x"] == [4, 8, 12]
        assert drawn["y"] == pytest.approx([fold(values) for values in zip(*over)][1:])
    assert not any(one["name"].startswith("residual") for one in figure["data"])


def test_a_recipe_s_line_and_band_have_one_colour_and_hide_together(whole):
    for figure in whole.data["figures"]:
        assert go.Figure(figure).data
        for name in {one["legendgroup"] for one in figure["data"]}:
            parts = [one for one in figure["data"] if one["legendgroup"] == name]
            assert [one["name"].split(", ")[1] for one in parts] == ["lowest seed", "highest seed", "mean"]
            assert parts[1]["fill"] == "tonexty"
            assert len({one["line"]["color"] for one in parts} | {parts[1]["fillcolor"][:7]}) == 1
    used = set(re.findall(r"#[0-9a-f]{6}", json.dumps(whole.data["figures"])))
    assert used <= whole.data["dark"].keys()
    buttons = [attributes["data-recipe"] for _, attributes in whole.tags if "data-recipe" in attributes]
    assert buttons == RECIPES
    saves = [attributes["data-csv"] for _, attributes in whole.tags if "data-csv" in attributes]
    assert saves == ["0", "1", "2", "3"]


def test_the_page_fetches_nothing(whole):
    for tag, attributes in whole.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), (tag, attributes)
        assert not {"src", "href", "srcset", "action"} & attributes.keys(), (tag, attributes)


def test_the_command_does_the_same_again(finished):
    found = about_sweep(read_sweep(finished))
    start = f"streammix sweep {finished.parent / 'text.txt'} --recipes residual,mhc --seeds 0,1 --precisions float32 "
    assert found["Command"].startswith(start)
    assert " --steps 12 " in found["Command"]
    assert "--seed " not in found["Command"]
    assert "seeds 0, 1" in found["Training"]


# --- runs that are not whole ------------------------------------------------------------------------------------


def test_a_sweep_that_was_stopped(copy):
    """mhc of seed 1 was killed before its end; what is asked for and has not begun is named as well."""
    write_json(copy / "sweep.json", read_json(copy / "sweep.json") | {"seeds": [0, 1, 2]})
    comparison = copy / "float32" / "seed-1" / "compare.json"
    saved = read_json(comparison)
    del saved["runs"]["mhc"]
    write_json(comparison, saved)
    (run(copy, 1, "mhc") / "summary.json").unlink()
    metrics = run(copy, 1, "mhc") / "metrics.jsonl"
    kept = [line for line in metrics.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= 8]
    metrics.write_text("".join(kept))

    page = Page(write_sweep(copy))
    assert "3 of 6 runs have not ended" in page.text
    assert "stopped at step 8 of 12" in page.text
    assert page.text.count("not started") == 2
    assert len(folders(page)) == 6
    line = trace(page.figure("Validation loss, float32"), "mhc, mean")
    assert [text.split(", ")[-1] for text in line["text"]] == ["2 seeds"] * 3 + ["1 seed"]
    assert line["y"][-1] == pytest.approx(val(copy, 0, "mhc")[-1]["loss"])
    # With fewer seeds than the residual, mhc does not compete.
    assert "float32: residual has the lowest validation loss" in page.text


def test_broken_files_become_notes(copy):
    (copy / "sweep.json").write_text("{")
    (run(copy, 0, "mhc") / "metrics.jsonl").write_text("not json\n")
    (run(copy, 1, "mhc") / "config.json").write_text("[]")
    (copy / "float32" / "seed-1" / "compare.json").write_text("3")
    (copy / "float32" / "seed-x" / "residual").mkdir(parents=True)
    (copy / "float32" / "seed-x" / "residual" / "config.json").write_text("{}")
    page = Page(write_sweep(copy))
    assert "sweep.json: not valid JSON" in page.text
    assert "float32, seed 0, mhc: " in page.text
    assert "1 damaged lines are left out" in page.text
    assert "float32, seed 1, mhc: " in page.text
    assert "compare.json: holds a JSON int" in page.text
    assert trace(page.figure("Validation loss, float32"), "mhc, mean")["text"] == ["1 seed"] * 4
    assert len(folders(page)) == 4


def test_many_recipes_can_be_shown_and_hidden_together(copy, whole):
    shown = [attributes["data-all"] for _, attributes in whole.tags if "data-all" in attributes]
    assert shown == []
    write_json(copy / "sweep.json", read_json(copy / "sweep.json") | {"recipes": list(choices())})
    page = Page(write_sweep(copy))
    shown = [attributes["data-all"] for _, attributes in page.tags if "data-all" in attributes]
    assert shown == ["true", "false"]
    assert f"{2 * len(choices()) - 4} of {2 * len(choices())} runs have not ended" in page.text


def test_a_run_that_failed_says_why(copy):
    write_json(copy / "sweep.json", read_json(copy / "sweep.json") | {"failed": {"float32/1/mhc": "no <memory>"}})
    assert "float32/1/mhc failed: no <memory>" in Page(write_sweep(copy)).text


def test_without_a_residual_there_is_nothing_to_compare_with(copy):
    write_json(copy / "sweep.json", read_json(copy / "sweep.json") | {"recipes": ["mhc"]})
    page = Page(write_sweep(copy))
    assert "relative to the plain residual" not in page.text
    assert len(page.data["figures"]) == 3


def test_names_cannot_break_out_of_the_page(copy):
    for name in HOSTILE:
        shutil.copytree(run(copy, 0, "mhc"), run(copy, 0, name))
    write_json(copy / "sweep.json", read_json(copy / "sweep.json") | {"recipes": [*RECIPES, *HOSTILE]})
    page = Page(write_sweep(copy))
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3
    assert "img" not in {tag for tag, _ in page.tags}
    assert not any("onclick" in attributes or "onerror" in attributes for _, attributes in page.tags)
    start = page.source.index('type="application/json"')
    assert "<" not in page.source[page.source.index(">", start) + 1 : page.source.index("</script>", start)]
    for name in HOSTILE:
        assert page.text.count(name) >= 3  # the legend, its table's row, and its runs'
        assert {"data-recipe": name}.items() <= next(a for _, a in page.tags if a.get("data-recipe") == name).items()


@pytest.mark.parametrize(
    "change",
    [
        {"recipes": ["../../etc"]},
        {"recipes": []},
        {"recipes": [["mhc"]]},
        {"seeds": ["../.."]},
        {"seeds": [True]},
        {"precisions": ["../float32"]},
        {"failed": {"x": 1}},
    ],
)
def test_a_sweep_of_nonsense_says_what_is_wrong(change, copy):
    write_json(copy / "sweep.json", read_json(copy / "sweep.json") | change)
    page = Page(write_sweep(copy))
    assert "sweep.json: " in page.text
    assert len(folders(page)) == 4


def test_no_run_at_all(tmp_path):
    with pytest.raises(LabError, match="no such folder"):
        write_sweep(tmp_path / "missing")
    with pytest.raises(LabError, match="holds no run"):
        write_sweep(tmp_path)


# --- curves -----------------------------------------------------------------------------------------------------


def test_a_band_counts_the_seeds_at_each_step():
    band = over_seeds([[(0, 1.0), (5, 3.0)], [(0, 2.0)], []])
    assert (band.steps, band.mean, band.low, band.high, band.seeds) == ([0, 5], [1.5, 3], [1, 3], [2, 3], [2, 1])


def test_a_damaged_record_does_not_shift_the_others_against_the_other_seeds():
    def made(seed: int, lost: set[int]) -> Comparison:
        config = Config(recipe="mhc", steps=2000, seed=seed)
        one = Run("mhc", Path(), config=config)
        one.train = [{"step": i, "loss": float(seed), "grad_norm": 1.0} for i in range(1, 2001) if i not in lost]
        return Comparison(Path(), [one], None, {}, [])

    figure = train_loss({0: made(0, {3}), 1: made(1, {4, 1001})}, Palette(["mhc"]), None)
    line = trace(json.loads(figure.to_json()), "mhc, mean")
    assert len(line["x"]) == 100
    ones = {step for step, text in zip(line["x"], line["text"]) if text == "1 seed"}
    assert ones == {1001}


def test_every_recipe_has_its_own_colour():
    palette = Palette(choices())
    assert len({palette.colour(name) for name in choices()}) == len(choices())
    assert len({palette.dark()[palette.colour(name)] for name in choices()}) == len(choices())
