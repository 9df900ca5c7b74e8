"""The digits suite measures what it says it does."""

import pytest
import torch

import streammix as sm
from streammix.bench.digits.column_sums import newton_on_sums
from streammix.bench.digits.suite import OURS, SINKHORN, SUMS, digits
from streammix.bench.run import bench
from streammix.lab.errors import LabError


def test_column_sums_find_the_projection(seed):
    R = torch.randn(50, 4, 4, dtype=torch.float64) * torch.tensor([1.0, 6.0]).repeat(25)[:, None, None]
    torch.testing.assert_close(newton_on_sums(R), sm.birkhoff(R), rtol=0, atol=1e-9)


def test_what_it_shows():
    worst = {(row["projection"], row["gap"]): row["max"] for row in digits(count=300)}
    assert max(error for (name, _), error in worst.items() if name == OURS) < 2e-5
    assert worst[SUMS, 0] < 1e-5
    assert worst[SUMS, 8] > 1e-4
    assert worst[SINKHORN, 8] > 1


def test_writes_figures_and_plot(tmp_path, capsys):
    bench("digits", options={"n": 3, "count": 20}, json_path=tmp_path / "d.json", plot_path=tmp_path / "d.svg")
    assert "Newton on column sums" in capsys.readouterr().out
    assert (tmp_path / "d.json").stat().st_size > 0
    assert "<svg" in (tmp_path / "d.svg").read_text()


def test_refuses():
    with pytest.raises(LabError, match="--n: got 1; accepted: integers >= 2"):
        bench("digits", options={"n": 1})
    with pytest.raises(LabError, match="count: got 0; accepted: integers >= 1"):
        bench("digits", options={"count": 0})
