"""The benchmark measures what it says it does."""

import json
import math

import pytest
import torch

import streammix as sm
from streammix.lab.bench import projection
from streammix.lab.bench.contenders import contenders, permutation_mixture, plain_sinkhorn
from streammix.lab.bench.run import bench
from streammix.lab.bench.timing import Timing, interleaved
from streammix.lab.errors import LabError


def test_interleaved_takes_turns(monkeypatch):
    monkeypatch.setattr("streammix.lab.bench.timing.SAMPLE_SECONDS", 0)
    order = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, turns=3)
    assert "".join(order[-6:]) == "ababab"
    assert [len(t.samples) for t in timings.values()] == [3, 3]


def test_ratios_are_taken_turn_by_turn():
    """The machine got ten times slower half way: the ratio is still two."""
    assert Timing((2.0, 20.0, 20.0)).over(Timing((1.0, 10.0, 10.0))) == 2.0
    assert Timing((1.0, 3.0, 100.0)).median == 3.0


def test_contenders_are_what_they_are_called(seed):
    maps = contenders(4, compile=False)
    R = torch.randn(50, 4, 4)
    torch.testing.assert_close(maps["birkhoff"](R), sm.birkhoff(R))
    torch.testing.assert_close(plain_sinkhorn(R), sm.sinkhorn(R, recipe="deepseek-v4"), rtol=0, atol=1e-6)
    H = permutation_mixture(4)(torch.randn(50, math.factorial(4)))
    assert sm.manifolds.Birkhoff(4).contains(H).all()


def test_accuracy_rows(seed):
    rows = projection.accuracy(count=500)
    ours = {row["family"]: row for row in rows if row["projection"] == "birkhoff"}
    assert set(ours) == set(projection.FAMILIES)
    for row in rows:
        if row["projection"] == "best published":
            assert all(ours[row["family"]][stat] <= row[stat] * 1.1 for stat in ("mean", "max"))


def test_bench_writes_figures_and_plot(tmp_path, capsys):
    results = bench(
        n=3,
        batches=[8, 32],
        families=["N(0,1)"],
        turns=1,
        compile=False,
        threads=None,
        only=["accuracy", "speed"],
        json_path=tmp_path / "new" / "bench.json",
        plot_path=tmp_path / "bench.svg",
    )
    assert json.loads((tmp_path / "new" / "bench.json").read_text()) == results
    assert "<svg" in (tmp_path / "bench.svg").read_text()
    for row in results["speed"]:
        assert row["seconds"] > 0
        assert row["over_birkhoff"] == pytest.approx(1) or row["contender"] != "birkhoff"
    out = capsys.readouterr().out
    assert "birkhoff" in out
    assert "sinkhorn-20 eager" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"only": ["acuracy"]}, r"--only: there is no part 'acuracy'; accepted: accuracy, memory"),
        ({"families": ["N(0,2)"]}, r"--family: there is no family 'N\(0,2\)'; accepted: N\(0,1\)"),
        ({"batches": [0]}, r"integers >= 1"),
        ({"plot_path": "x.gif"}, r"--plot: got x.gif; accepted: .*\.svg"),
    ],
)
def test_bad_options(change, message):
    from pathlib import Path

    options = {
        "n": 4,
        "batches": [8],
        "families": ["N(0,1)"],
        "turns": 1,
        "compile": False,
        "threads": None,
        "only": [],
        "json_path": None,
        "plot_path": None,
    }
    if "plot_path" in change:
        change = {"plot_path": Path(change["plot_path"])}
    with pytest.raises(LabError, match=message):
        bench(**(options | change))
