"""The site suite measures what it says it does."""

import json

import pytest
import torch

import streammix as sm
from streammix.bench.memory import allocations, available, growth
from streammix.bench.run import bench
from streammix.bench.site import memory, models
from streammix.bench.site.diagnosing import diagnosing
from streammix.bench.site.of_recipes import of_recipes
from streammix.bench.site.one_site import formulas, one_site
from streammix.bench.site.streams import CLONE, COPY, streams
from streammix.lab.errors import LabError


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("streammix.bench.timing.SAMPLE_SECONDS", 0)


def test_bytes_that_have_to_move():
    rows = streams(n=2, sizes=(3,), dims=(8, 16), tokens=(4, 10), dim=8, copied=1000, turns=1)
    shapes = {(row["tokens"], row["n"], row["C"], row["dtype"]) for row in rows}
    base = {(10, 2, 8, "float32"), (10, 2, 8, "bfloat16")}
    assert shapes == base | {(10, 3, 8, "float32"), (10, 2, 16, "float32"), (4, 2, 8, "float32")}
    new = [row for row in rows if row["operation"] == CLONE]
    assert {(row["dtype"], row["memory"]) for row in new} == {("float32", "new"), ("bfloat16", "new")}
    moved = {(row["operation"], row["pass"]): row["bytes"] for row in [*rows[:5], new[0]]}
    x, y, weights, matrices = 10 * 2 * 8 * 4, 10 * 8 * 4, 10 * 2 * 4, 10 * 4 * 4
    assert moved[COPY, "forward"] == moved[CLONE, "forward"] == 2 * 1000 * 4
    assert moved["read", "forward"] == x + weights + y
    assert moved["read", "forward+backward"] == moved["read", "forward"] + (y + x + weights) + (x + weights)
    assert moved["write", "forward"] == x + y + weights + matrices + x
    backward = (x + x + y + weights + matrices) + (x + y + weights + matrices)
    assert moved["write", "forward+backward"] == moved["write", "forward"] + backward
    for row in rows:
        assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        assert row["operation"] != COPY or row["of_copy"] == pytest.approx(1)


def test_the_formulas_are_the_site(seed):
    site = sm.HyperConnection(lambda u: u, 12, 3, site=0)
    with torch.no_grad():
        for parameter in site.parameters():
            parameter.normal_()
    x = torch.randn(5, 3, 12, requires_grad=True)
    grad = torch.randn_like(x)
    weights = [x, *site.parameters()]
    torch.testing.assert_close(formulas(site)(x), site(x))
    for ours, theirs in zip(*(torch.autograd.grad(f(x), weights, grad) for f in (site, formulas(site)))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_one_site_against_a_plain_add():
    rows = one_site(n=2, dims=(8, 16), tokens=4, turns=1, compile=False)
    names = ["residual", "streammix", "streammix, eager backend"]
    assert [row["contender"] for row in rows] == 4 * names
    assert {(row["C"], row["pass"]) for row in rows} == {
        (C, p) for C in (8, 16) for p in ("forward", "forward+backward")
    }
    assert all(row["over_residual"] == 1 for row in rows if row["contender"] == "residual")


def test_sites_of_recipes_against_mhc():
    rows = of_recipes(names=["xhc", "deepseek-v4.1", "ghc"], dim=8, batch=2, context=3, turns=1)
    assert [(row["recipe"], row["n"]) for row in rows] == [("mhc", 4), ("xhc", 16), ("deepseek-v4.1", 4), ("ghc", 8)]
    assert rows[0]["over_mhc"] == rows[0]["over_mhc_of_n"] == 1
    assert all(row["over_mhc"] == pytest.approx(row["seconds"] / rows[0]["seconds"]) for row in rows)
    with pytest.raises(LabError, match="--recipe: got mch; accepted: hc,"):
        of_recipes(names=["mch"])


def test_models_step_and_decode():
    steps = models.training_step(n=2, dims=(16,), layers=1, batch=2, context=8, turns=1, compile=False)
    assert [row["model"] for row in steps] == ["residual", "mhc", "mhc, eager backend"]
    assert all(row["base"] == "residual" and row["ratio"] > 0 and row["tokens"] == 16 for row in steps)
    tokens = models.decoding(n=2, dims=(16,), layers=3, turns=1)
    for row in tokens:
        assert row["us_per_site"] == pytest.approx((row["seconds"] - tokens[0]["seconds"]) / 6 * 1e6)


def test_a_compiled_model_is_compared_with_the_compiled_plain_one(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    steps = models.training_step(n=2, dims=(16,), layers=1, batch=2, context=8, turns=1)
    bases = {row["model"]: row["base"] for row in steps}
    assert bases["mhc"] == bases["mhc, eager backend"] == "residual"
    assert bases["mhc, compiled"] == bases["residual, compiled"] == "residual, compiled"


def test_the_share_of_diagnostics_is_that_of_one_in_so_many_steps():
    (row,) = diagnosing(n=2, dims=(16,), layers=1, batch=2, context=8, turns=1)
    assert row["share"] == pytest.approx(row["diagnosis"] / (row["diagnosis"] + row["every"] * row["step"]))
    assert row["every"] == 50
    assert row["tokens"] == 16


def test_saved_bytes_count_every_storage_once():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(10, 20))

        def loss(self, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            y = x @ self.weight.mT  # saves x (5 x 20) and a parameter
            return (y * y + y[:2].exp().sum()).sum()  # saves y twice (5 x 10), and the exponentials (2 x 10)

    model = Model()
    assert memory.saved(model, torch.ones(5, 20), torch.ones(0)) == (5 * 20 + 5 * 10 + 2 * 10) * 4
    assert model.weight.grad is not None


def test_memory_in_stream_states():
    plain, ours, recomputed = memory.memory(n=4, dims=(64,), layers=2, batch=2, context=64)
    assert recomputed["saved"] is None
    state = 2 * 64 * 4 * 64 * 4
    assert plain["saved_states"] == 0
    assert ours["saved_states"] == pytest.approx((ours["saved"] - plain["saved"]) / (4 * state))
    assert ours["saved_states"] > 0.9  # every site keeps its streams
    assert plain["held"] < recomputed["held"] < ours["held"]
    assert plain["peak"] < recomputed["peak"] < ours["peak"]


def test_allocations():
    def call():
        kept = torch.ones(1000)
        torch.ones(5000)
        return kept

    assert allocations(call) == (24_000, 4_000)


def test_peak_growth():
    if not available():
        pytest.skip("needs Linux's /proc/self/clear_refs")
    held: list[torch.Tensor] = []
    grown = growth(lambda: held.append(torch.ones(1 << 24)))
    assert 60e6 < grown < 80e6  # 64 MiB


def test_writes_figures_and_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(
        "streammix.bench.site.suite.streams",
        lambda **_: streams(sizes=(), dims=(), tokens=(4,), dim=8, copied=1000, turns=1),
    )
    results = bench(
        "site",
        options={"n": 2, "dim": (16,), "turns": 1, "compile": False},
        only=["site", "streams"],
        json_path=tmp_path / "new" / "site.json",
        plot_path=tmp_path / "site.svg",
    )
    assert json.loads((tmp_path / "new" / "site.json").read_text())["site"] == results["site"]
    assert results["settings"]["dim"] == (16,)
    assert list(results["seconds"]) == ["streams", "site"]
    assert "<svg" in (tmp_path / "site.svg").read_text()
    out = capsys.readouterr().out
    assert "read forward+backward" in out
    assert "streammix, eager backend" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "sites"}, "--suite: there is no suite 'sites'; accepted: projection, digits, site"),
        ({"options": {"batch": (8,)}}, "--batch: suite 'site' does not take it; accepted there: --n, --dim, --turns"),
        ({"options": {"dim": (31,)}}, "--dim: got 31; accepted: even integers >= 2"),
        ({"options": {"turns": 0}}, "--n and --turns take integers >= 1"),
        ({"only": ["speed"]}, "--only: there is no part 'speed'; accepted: streams, site, recipes, step"),
        (
            {"only": ["memory"], "plot_path": "x.svg"},
            "--only leaves no part that has a picture; those are streams",
        ),
        ({"plot_path": "x.gif"}, r"--plot: got x.gif; accepted: .*\.svg"),
        ({"threads": 0}, "--threads: got 0; accepted: integers >= 1"),
    ],
)
def test_bad_options(arguments, message):
    from pathlib import Path

    if "plot_path" in arguments:
        arguments = arguments | {"plot_path": Path(arguments["plot_path"])}
    with pytest.raises(LabError, match=message):
        bench(**({"name": "site", "options": {}} | arguments))
