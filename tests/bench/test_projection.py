"""The projection suite measures what it says it does."""

import json
import math

import pytest
import torch

import streammix as sm
from streammix.bench.projection import measure
from streammix.bench.projection.contenders import contenders, permutation_mixture, plain_sinkhorn
from streammix.bench.run import bench
from streammix.lab.errors import LabError


def test_contenders_are_what_they_are_called(seed):
    maps = contenders(4, compile=False)
    R = torch.randn(50, 4, 4)
    torch.testing.assert_close(maps["birkhoff"](R), sm.birkhoff(R))
    torch.testing.assert_close(plain_sinkhorn(R), sm.sinkhorn(R, recipe="deepseek-v4"), rtol=0, atol=1e-6)
    H = permutation_mixture(4)(torch.randn(50, math.factorial(4)))
    assert sm.manifolds.Birkhoff(4).contains(H).all()


def test_accuracy_rows(seed):
    rows = measure.accuracy(count=500)
    ours = {row["family"]: row for row in rows if row["projection"] == "birkhoff"}
    assert set(ours) == set(measure.FAMILIES)
    for row in rows:
        if row["projection"] == "best published":
            assert all(ours[row["family"]][stat] <= row[stat] * 1.1 for stat in ("mean", "max"))


def test_writes_figures_and_plot(tmp_path, capsys):
    results = bench(
        "projection",
        options={"n": 3, "batch": (8, 32), "family": ("N(0,1)",), "turns": 1, "compile": False},
        only=["accuracy", "speed"],
        json_path=tmp_path / "new" / "bench.json",
        plot_path=tmp_path / "bench.svg",
    )
    assert json.loads((tmp_path / "new" / "bench.json").read_text())["speed"] == results["speed"]
    assert "<svg" in (tmp_path / "bench.svg").read_text()
    assert {(row["batch"], row["family"]) for row in results["speed"]} == {(8, "N(0,1)"), (32, "N(0,1)")}
    for row in results["speed"]:
        assert row["seconds"] > 0
        assert row["over_birkhoff"] == pytest.approx(1) or row["contender"] != "birkhoff"
    out = capsys.readouterr().out
    assert "birkhoff" in out
    assert "sinkhorn-20 eager" in out


def test_costs_by_size_and_scale(monkeypatch):
    monkeypatch.setattr("streammix.bench.timing.SAMPLE_SECONDS", 0)
    sizes = measure.by_size(batch=8, sizes=(2, 5), turns=1)
    scales = measure.by_scale(batch=8, scales=(1, 100), turns=1)
    assert {row["n"] for row in sizes} == {2, 5}
    assert {row["scale"] for row in scales} == {1, 100}
    assert all(row["ns_per_matrix"] > 0 for row in sizes + scales)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": ("N(0,2)",)}, r"--family: there is no family 'N\(0,2\)'; accepted: N\(0,1\)"),
        ({"batch": (0,)}, r"integers >= 1"),
        ({"turns": 0}, r"integers >= 1"),
        ({"dim": (64,)}, r"--dim: suite 'projection' does not take it; accepted there: --n, --batch"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(LabError, match=message):
        bench("projection", options=options)
