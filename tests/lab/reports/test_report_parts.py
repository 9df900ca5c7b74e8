"""The report's table, tiles and plots on made-up numbers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import UndefinedError

from streammix import diagnostics
from streammix.lab import report
from streammix.lab.maps import Maps, SiteMaps
from streammix.lab.report import plots_sites, plots_training
from streammix.lab.report.about import describe
from streammix.lab.report.comparison import Comparison, Run
from streammix.lab.report.page import environment
from streammix.lab.report.style import OTHERS, PAGE, RECIPES, Palette
from streammix.lab.report.table import headline, ties, verdict
from streammix.lab.report.tiles import cell, moved, short, tile


def run(name: str, losses: dict[int, float], *, finished: bool = True, **summary: Any) -> Run:
    val = [{"step": step, "kind": "val", "loss": loss} for step, loss in losses.items()]
    last = max(losses)
    complete = {"val_loss": losses[last], "steps": last, **summary} if finished else {}
    return Run(name, Path(name), summary=complete, val=val)


def html(template: str, macro: str, value: Any) -> str:
    """What a macro makes of a value."""
    return str(getattr(environment().get_template(template).module, macro)(value))


def comparison(*runs: Run, bigram: float | None = 2.5) -> Comparison:
    return Comparison(Path(), list(runs), bigram, {}, [])


def maps(mixes: list[torch.Tensor]) -> Maps:
    """A model with these mixing matrices, each (tokens, n, n)."""
    n = mixes[0].shape[-1]
    sites = [
        SiteMaps(
            label=f"{i} Branch",
            read=torch.full((n,), 1 / n),
            write=torch.ones(n),
            mix=mix.mean(0),
            read_spread=torch.zeros(n),
            write_spread=torch.zeros(n),
            mix_spread=mix.std(0, correction=0),
            measures={
                "marginal_error": diagnostics.marginal_error(mix).mean().item(),
                "marginal_error_max": diagnostics.marginal_error(mix).max().item(),
                "effective_read": float(n),
                "effective_write": 1.0,
                "stream_cosine": 0.5,
            },
        )
        for i, mix in enumerate(mixes, start=1)
    ]
    return Maps(n, len(mixes[0]), sites, diagnostics.gains_by_depth(mixes))


# --- the table --------------------------------------------------------------------------------------------------


def test_the_verdict_names_the_best_and_by_how_much():
    said = verdict(comparison(run("residual", {10: 2.0}), run("hc", {10: 1.9}), run("mhc", {10: 1.95})))
    assert said.startswith("Lowest validation loss: hc, 1.9000 nats per byte, 0.1000 below the plain residual's.")
    assert "All 3 are below the bigram baseline, 2.5000." in said


def test_the_verdict_when_the_residual_wins_or_the_baseline_does():
    said = verdict(comparison(run("residual", {10: 2.0}), run("hc", {10: 2.6})))
    assert said.startswith("Lowest validation loss: residual, 2.0000 nats per byte.")
    assert "Not below the bigram baseline: hc." in said


def test_runs_whose_curves_overlap_are_named():
    assert ties({"a": 2.0, "b": 1.0, "c": 1.0004, "d": 1.0008}) == [["b", "c"]]
    said = verdict(comparison(run("mhc", {10: 1.9}), run("hc", {10: 1.8}), run("ihc", {10: 1.9003})))
    assert "mhc and ihc end within 0.0005 nats of each other" in said
    assert "overlap" not in verdict(comparison(run("mhc", {10: 1.9}), run("hc", {10: 1.8})))


def test_the_verdict_counts_finished_runs_only():
    said = verdict(comparison(run("residual", {10: 2.0}), run("hc", {5: 1.0}, finished=False)))
    assert "residual, 2.0000" in said
    assert verdict(comparison(run("hc", {5: 1.0}, finished=False))) == "No run is finished yet."


def test_unequal_steps_are_not_subtracted():
    palette = Palette(["residual", "hc"])
    table = headline(comparison(run("residual", {10: 2.0}), run("hc", {5: 1.25}, finished=False)), palette)
    shown = html("table.html.j2", "results", table)
    assert "1.2500" in shown
    assert "0.7500" not in shown
    assert "stopped at step 5" in shown


def test_speed_is_relative_to_the_residual_and_memory_in_mib():
    residual = run("residual", {10: 2.0}, tokens_per_s=8000.0, peak_memory_bytes=300 * 2**20)
    table = headline(comparison(residual, run("hc", {10: 2.0}, tokens_per_s=6000.0)), Palette(["residual", "hc"]))
    shown = html("table.html.j2", "results", table)
    for words in ("8,000", "1.00×", "6,000", "0.75×", "300"):
        assert f"<td>{words}</td>" in shown


# --- tiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.0049, "0"), (0.034, ".03"), (-0.4, "−.40"), (0.994, ".99"), (0.996, "1.0"), (12.3, "12")],
)
def test_short_numbers(value, shown):
    assert short(value) == shown


def test_a_tile_lays_out_rows_as_what_a_stream_receives():
    mix = torch.tensor([[[0.75, 0.25], [-0.5, 1.5]]])
    shown = html("tiles.html.j2", "tile", tile(maps([mix]).sites[0], 2))
    assert "stream 2 into stream 1: 0.2500" in shown
    assert "stream 1 into stream 2: -0.5000" in shown
    assert shown.count('class="neg') == 1
    numbers = [part.split("<")[0] for part in shown.split('">') if "</i>" in part and part[0] in ".0123456789−"]
    assert numbers == [".50", ".50", ".75", ".25", "1.0", "−.50", "1.5", "1.0"]


def test_small_numbers_show_on_the_log_scale():
    shown = html("tiles.html.j2", "cell", cell(3e-4, 1e-5, 1.0, "x"))
    assert 'data-log="-4"' in shown
    assert "x: 3.0e-04 ± 1e-05 over tokens" in shown
    assert "--l:0.30;" in shown
    assert 'data-log=""' in html("tiles.html.j2", "cell", cell(0.0, 0.0, 1.0, "x"))
    assert cell(float("nan"), 0.0, 1.0, "x").exponent == ""


def test_the_page_says_how_far_training_moved_the_matrices():
    one = maps([torch.tensor([[[0.75, 0.25], [-0.5, 1.5]]])])
    assert html("tiles.html.j2", "moved", moved(one)) == ""
    one.started = [torch.eye(2)]
    said = " ".join(html("tiles.html.j2", "moved", moved(one)).split())
    assert "0 on average where the recipe starts it, 0.38 after training" in said


@pytest.mark.parametrize("name", environment().list_templates(["j2"]))
def test_a_template_escapes_what_it_shows_and_asks_for_what_it_lacks(name):
    """`safe` would let a name through; only Plotly's own script may have it."""
    source = Path(report.__file__).with_name(name).read_text()
    assert source.count("safe") == (name == "page.html.j2")
    assert environment().autoescape is True
    with pytest.raises(UndefinedError):
        environment().from_string("{{ missing }}").render()


# --- plots ------------------------------------------------------------------------------------------------------


def test_a_long_curve_is_thinned_and_smoothed():
    one = Run("hc", Path())
    one.train = [{"step": i, "loss": 3.0 + (-1) ** i, "grad_norm": 1.0} for i in range(1, 2001)]
    figure = plots_training.train_loss(comparison(one), Palette(["hc"]))
    (curve,) = figure.data
    assert len(curve.y) == plots_training.POINTS
    assert all(abs(value - 3) < 0.02 for value in curve.y)


def test_loss_plots_show_the_end_and_not_the_first_fall():
    one = run("hc", {0: 5.5, 10: 2.2, 20: 2.0})
    low, high = plots_training.val_loss(comparison(one), Palette(["hc"])).layout.yaxis.range
    assert low < 2.0
    assert 2.5 < high < 5.5


def test_plots_of_nothing():
    empty = comparison(Run("hc", Path()), bigram=None)
    palette = Palette(["hc"])
    for plot in (plots_training.val_loss, plots_training.train_loss, plots_training.grad_norm):
        assert not plot(empty, palette).data
    assert plots_training.loss_difference(empty, palette) is None


def test_signs_that_cancel_add_a_dotted_line():
    signed = torch.tensor([[[2.0, -1.0], [-1.0, 2.0]]])
    palette = Palette(["hc", "mhc"])
    figure = plots_sites.forward_gain({"hc": maps([signed] * 2), "mhc": maps([torch.eye(2)[None]] * 2)}, palette)
    assert [one.name for one in figure.data] == ["hc", "hc, signs ignored", "mhc"]
    assert list(figure.data[0].y) == [1, 1]
    assert list(figure.data[1].y) == [3, 9]
    assert figure.data[1].line.dash == "dot"


def test_gains_that_explode_get_a_log_axis_and_gains_of_one_a_calm_one():
    palette = Palette(["hc"])
    grown = plots_sites.backward_gain({"hc": maps([100 * torch.eye(2)[None]] * 3)}, palette)
    assert grown.layout.yaxis.type == "log"
    calm = plots_sites.backward_gain({"hc": maps([(1 + 1e-7) * torch.eye(2)[None]] * 3)}, palette)
    low, high = calm.layout.yaxis.range
    assert low < 0.96
    assert high > 1.04


def test_an_exact_zero_has_a_place_on_the_log_axis():
    figure = plots_sites.marginal_error({"ihc": maps([torch.eye(3)[None]])}, Palette(["ihc"]))
    assert figure.data[0].text == ("exactly 0",)
    axis = figure.layout.yaxis
    place = axis.tickvals.index(figure.data[0].y[0])
    assert axis.ticktext[place] == "0"
    assert axis.range[0] < math.log10(figure.data[0].y[0]) < axis.range[1]


def test_maps_that_are_not_finite_do_not_stop_the_plots():
    broken = {"hc": maps([torch.full((1, 2, 2), math.nan)] * 2)}
    palette = Palette(["hc"])
    for name in ("forward_gain", "backward_gain", "complement_gain", "marginal_error", "streams_read"):
        assert getattr(plots_sites, name)(broken, palette).to_json()


# --- colours and words ------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_read_on_their_page(theme):
    paper = luminance(PAGE["paper"][theme])
    for pair in (*RECIPES.values(), *OTHERS, PAGE["ink"], PAGE["quiet"]):
        bright, dark = sorted((luminance(pair[theme]), paper), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, pair[theme]


def test_every_connection_has_its_own_colour():
    names = [*RECIPES, "new-1", "new-2"]
    palette = Palette(names)
    assert len({palette.colour(name) for name in names}) == len(names)
    assert Palette(["ihc", "mhc"]).colour("mhc") == palette.colour("mhc")
    shared = {light for light, _ in PAGE.values()} & set(map(palette.colour, names))
    assert not shared  # the page swaps colours by their value


def test_data_is_described_with_units():
    about = {"source": "books", "train_bytes": 2_500_000, "val_bytes": 100_000, "held_out": "1 of 9 files"}
    assert describe(about) == "books: 2.5 MB to train on, 0.1 MB held out (1 of 9 files)"
    assert describe({}) == "unknown"
