"""The device suite, tried out in small on the CPU."""

import json

import pytest
import torch

from streammix.bench.device import measure
from streammix.bench.run import bench
from streammix.lab.errors import LabError
from streammix.ops.eager import mixed_site


def test_writes_its_figures(tmp_path, capsys):
    bench("device", options={"device": "cpu", "turns": 1, "compile": False}, json_path=tmp_path / "gpu.json")
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["contender"] for row in figures["site"]} == {"kernels", "plain formulas"}
    assert {row["model"] for row in figures["step"]} == {"residual", "mhc", "mhc, plain formulas"}
    assert all(row["ns_per_matrix"] > 0 for row in figures["projection"])
    assert figures["copy"][0]["gb_per_s"] > 0
    assert "Between two branches" in capsys.readouterr().out


def test_what_is_compared_is_the_same(seed):
    """The formulas that torch.compile is given, and the operators; both end on the columns' sums."""
    tokens, n, C = 5, 4, 8
    x, y, post = torch.randn(tokens, n, C), torch.randn(tokens, C), torch.rand(tokens, n)
    res = torch.softmax(torch.randn(tokens, n, n), -1)
    parameters = torch.randn(24, n * C) / 6, torch.randn(3), torch.randn(24)
    rule = (20, 2, True, False, 1e-6)
    ours = mixed_site.write_mixed_site_read(x, y, post, res, *parameters, *measure.SETTINGS, *rule)
    for a, b in zip(measure.plain_site(x, y, post, res, *parameters), ours):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asked where there is no device")
def test_refuses():
    with pytest.raises(LabError, match="no CUDA or ROCm device"):
        bench("device", options={})
    with pytest.raises(LabError, match="--device: got 'tpu'; accepted: cuda, cpu"):
        bench("device", options={"device": "tpu"})
    with pytest.raises(LabError, match="integers >= 2"):
        bench("device", options={"device": "cpu", "n": 1})
