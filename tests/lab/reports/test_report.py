"""The report of real, tiny runs: whole, cut short and damaged."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from html_page import Page, trace

from streammix.lab import text as texts
from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.files import write_json
from streammix.lab.report import write_report
from streammix.lab.training.checkpoint import digest, load_model, steps
from streammix.lab.training.metrics import read_metrics
from streammix.lab.training.train import train

RECIPES = ("residual", "hc", "mhc", "ihc")
BIGRAM = 2.71828


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of four runs of twelve steps, as `streammix compare` leaves it."""
    root = tmp_path_factory.mktemp("comparison")
    text = root / "text.txt"
    text.write_text("".join(f"the {i}th of {i * i} words, and so on\n" for i in range(600)))
    settings: dict[str, Any] = {"text": (str(text),), "dim": 16, "layers": 2, "heads": 2, "context": 16}
    settings |= {"batch": 2, "steps": 12, "warmup": 2, "eval_every": 4, "checkpoint_every": 4, "threads": 1}
    folder = root / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMMIX_CACHE", str(root / "cache"))
        configs = [Config(recipe=name, **settings) for name in RECIPES]
        runs = {config.recipe: train(config, folder / config.recipe) for config in configs}
        about = texts.load((str(text),)).describe()
    write_json(folder / "compare.json", {"bigram_val_loss": BIGRAM, "data": about, "runs": runs})
    return folder


@pytest.fixture
def comparison(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.fixture(scope="module")
def whole(finished: Path) -> Page:
    """The report of the four finished runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMMIX_CACHE", str(finished.parent / "cache"))
        path = write_report(finished)
    assert path == finished / "report.html"
    return Page(path)


def test_a_whole_report(finished, whole):
    summaries = json.loads((finished / "compare.json").read_text())["runs"]
    for name in RECIPES:
        summary = summaries[name]
        assert f"{summary['val_loss']:.4f}" in whole.text
        assert f"{summary['parameters']:,}" in whole.text
        assert f"{summary['tokens_per_s']:,.0f}" in whole.text
        assert f"{summary['peak_memory_bytes'] / 2**20:,.0f}" in whole.text
    assert f"{BIGRAM:.4f}" in whole.text
    difference = summaries["mhc"]["val_loss"] - summaries["residual"]["val_loss"]
    assert f"{difference:+.4f}".replace("-", "−") in whole.text
    assert "seed 0" in whole.text
    assert torch.__version__ in whole.text
    assert "stopped" not in whole.text
    assert "corrupt" not in whole.text


def test_the_page_fetches_nothing(finished, whole):
    for tag, attributes in whole.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), (tag, attributes)
        assert not {"src", "href", "srcset", "action"} & attributes.keys(), (tag, attributes)
    styles = [script for script in whole.scripts if "--paper" in script and "font" in script]
    assert styles
    assert not any("url(" in style or "@import" in style for style in styles)


def test_every_figure_is_valid_plotly_and_has_a_place_and_a_sentence(finished, whole):
    places = [attributes["data-plot"] for _, attributes in whole.tags if "data-plot" in attributes]
    assert places == [str(i) for i in range(len(whole.data["figures"]))]
    assert len(places) == 11
    for figure in whole.data["figures"]:
        assert go.Figure(figure).data
    captions = re.findall(r"<figcaption><h3>[^<]+</h3><p>([^<]+)</p></figcaption>", whole.source)
    assert len(captions) == len(places)
    assert all(caption.endswith(".") for caption in captions)


def test_each_colour_of_a_figure_has_a_dark_counterpart(finished, whole):
    used = set(re.findall(r"#[0-9a-f]{6}", json.dumps(whole.data["figures"])))
    assert used <= whole.data["dark"].keys()


def test_a_connection_has_one_colour_in_all_figures(finished, whole):
    colours: dict[str, set[str]] = {}
    for figure in whole.data["figures"]:
        for one in figure["data"]:
            colours.setdefault(one["legendgroup"], set()).add(one["marker"]["color"])
            assert one.get("line", one["marker"])["color"] == one["marker"]["color"]
    assert colours.keys() == set(RECIPES)
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(RECIPES)


def test_the_curves_are_the_metrics(finished, whole):
    losses = {name: [r for r in read_metrics(finished / name) if r["kind"] == "val"] for name in RECIPES}
    curve = trace(whole.figure("Validation loss"), "mhc")
    assert curve["x"] == [record["step"] for record in losses["mhc"]] == [0, 4, 8, 12]
    assert curve["y"] == pytest.approx([record["loss"] for record in losses["mhc"]])
    curve = trace(whole.figure("Validation loss, relative to the plain residual"), "hc")
    assert curve["x"] == [4, 8, 12]
    both = zip(losses["hc"], losses["residual"])
    assert curve["y"] == pytest.approx([mine["loss"] - base["loss"] for mine, base in both][1:])


def test_the_gains_are_those_of_the_trained_models(finished, whole):
    for name in ("hc", "mhc"):
        model, config = load_model(finished / name)
        one_batch = dataclasses.replace(config, eval_batches=1)
        tokens, _ = next(texts.val_batches(texts.load(config.text), one_batch))
        product, gains = None, []
        # Walk the sites by hand: P = H_l ... H_1 for each token.
        states = [model.embed(tokens)[..., None, :].expand(-1, -1, model.streams, -1).contiguous()]
        for site in model.stack.sites:
            site.register_forward_hook(lambda _, args, out, kept=states: kept.append(out.detach()))
        with torch.no_grad():
            model(tokens)
            for site, state in zip(model.stack.sites, states):
                mix = site.coefficients(state)[2]
                product = mix if product is None else torch.einsum("btij,btjk->btik", mix, product)
                gains.append(product.sum(-1).abs().amax(-1).mean().item())
        drawn = trace(whole.figure("Forward gain by depth"), name)
        assert drawn["x"] == [1, 2, 3, 4]
        assert drawn["y"] == pytest.approx(gains, rel=1e-5)
    assert trace(whole.figure("Marginal error of the mixing matrices"), "ihc")["text"] == ["exactly 0"] * 4


def test_other_layouts_are_in_the_curves_and_say_why_not_in_the_maps(tiny, tmp_path):
    names = ("residual", "mhc", "xhc", "deepseek-v4.1")
    for name in names:
        train(Config(**tiny | {"recipe": name}), tmp_path / "runs" / name)
    page = Page(write_report(tmp_path / "runs"))
    drawn = [one.get("name") for one in page.figure("Validation loss")["data"]]
    assert set(names) <= set(drawn)
    assert "xhc: the maps of sparse connections" in page.text
    assert "residual: the maps" not in page.text
    shown = {one.get("name") for one in page.figure("Forward gain by depth")["data"]}
    assert {"mhc", "deepseek-v4.1"} <= shown
    assert "xhc" not in shown


def test_maps_show_every_site_of_every_hyper_connection(finished, whole):
    tiles = [attributes for tag, attributes in whole.tags if tag == "div" and (attributes.get("class") or "") == "tile"]
    assert len(tiles) == 3 * 4
    cells = [a["title"] for tag, a in whole.tags if tag == "i" and "title" in a]
    assert len(cells) == 3 * 4 * (4 + 16 + 4)
    owners = {attributes["data-of"] for _, attributes in whole.tags if attributes.get("class") == "maps"}
    assert owners == {"hc", "mhc", "ihc"}


# --- runs that are not whole ------------------------------------------------------------------------------------


def test_an_interrupted_comparison(comparison):
    """hc was killed between a checkpoint and its end, mhc before its first step, ihc was never begun."""
    saved = json.loads((comparison / "compare.json").read_text())
    write_json(comparison / "compare.json", saved | {"runs": {"residual": saved["runs"]["residual"]}})
    (comparison / "hc" / "summary.json").unlink()
    metrics = comparison / "hc" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:9]) + '{"step": 8, "ki')
    shutil.rmtree(steps(comparison / "hc")[-1])
    for path in ("summary.json", "metrics.jsonl", "checkpoints"):
        target = comparison / "mhc" / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    shutil.rmtree(comparison / "ihc")

    page = Page(write_report(comparison))
    assert "hc: stopped at step 7 of 12" in page.text
    assert "mhc: not started" in page.text
    assert "mhc: no measurements" in page.text
    assert "Lowest validation loss: residual" in page.text
    assert trace(page.figure("Forward gain by depth"), "hc")
    rows = {a["data-of"] for tag, a in page.tags if tag == "tr" and "data-of" in a}
    assert rows == {"residual", "hc", "mhc"}


def test_a_corrupt_checkpoint_costs_its_own_maps_only(comparison):
    for checkpoint in steps(comparison / "mhc"):
        weights = checkpoint / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-7])
    page = Page(write_report(comparison))
    assert "corrupt checkpoint" in page.text
    assert {one["name"] for one in page.figure("Forward gain by depth")["data"]} >= {"hc", "ihc"}
    assert "mhc" not in {one["name"] for one in page.figure("Forward gain by depth")["data"]}
    assert trace(page.figure("Validation loss"), "mhc")


def test_broken_files_become_notes(comparison):
    (comparison / "compare.json").write_text("{")
    (comparison / "hc" / "metrics.jsonl").write_text("not json\n")
    (comparison / "mhc" / "config.json").write_text("[]")
    (comparison / "ihc" / "summary.json").write_text("3")
    page = Page(write_report(comparison))
    assert "compare.json: not valid JSON" in page.text
    assert f"hc: {comparison / 'hc' / 'metrics.jsonl'}: 1 damaged lines are left out" in page.text
    assert "mhc: " + str(comparison / "mhc" / "config.json") + ": holds a JSON list" in page.text
    assert "summary.json: holds a JSON int" in page.text
    assert trace(page.figure("Validation loss"), "mhc")


def test_without_the_text_the_curves_remain(comparison, tmp_path):
    for name in RECIPES:
        config = comparison / name / "config.json"
        write_json(config, json.loads(config.read_text()) | {"text": [str(tmp_path / "gone.txt")]})
        for checkpoint in steps(comparison / name):
            state = json.loads((checkpoint / "state.json").read_text())
            state["config"]["text"] = [str(tmp_path / "gone.txt")]
            write_json(checkpoint / "state.json", state | {"sha256": digest(state)})
    page = Page(write_report(comparison))
    assert "gone.txt: no such file" in page.text
    assert len(page.data["figures"]) == 4


def test_without_a_residual_run_there_is_nothing_to_compare_with(comparison):
    shutil.rmtree(comparison / "residual")
    saved = json.loads((comparison / "compare.json").read_text())
    del saved["runs"]["residual"]
    write_json(comparison / "compare.json", saved)
    page = Page(write_report(comparison))
    assert "relative to the plain residual" not in page.text
    assert len(page.data["figures"]) == 10


def test_names_cannot_break_out_of_the_page(comparison):
    odd = comparison / "<img src=x onerror=alert(1)>"
    shutil.copytree(comparison / "hc", odd)
    page = Page(write_report(comparison))
    assert "img" not in {tag for tag, _ in page.tags}
    assert odd.name in page.text
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3


def test_an_older_report_is_replaced_whole(comparison):
    path = write_report(comparison)
    path.write_text("old")
    assert write_report(comparison).stat().st_size > 1_000_000
    assert [p.name for p in comparison.iterdir() if p.name.startswith(".")] == []


def test_no_run_at_all(tmp_path):
    with pytest.raises(LabError, match="no such folder"):
        write_report(tmp_path / "missing")
    with pytest.raises(LabError, match="holds no run"):
        write_report(tmp_path)
