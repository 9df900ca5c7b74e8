"""The device suite, tried out in small on the CPU."""

import json
import sys
from types import ModuleType

import pytest
import torch

import streammix as sm
from streammix.bench.device import measure, peers
from streammix.bench.projection.contenders import plain_sinkhorn
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


class Liger(ModuleType):
    """What liger-kernel's functions compute, with their arguments."""

    @staticmethod
    def liger_mhc_post_res(x, f_out, h_post, h_res):
        return (h_res @ x.float() + h_post.unsqueeze(-1) * f_out.float().unsqueeze(-2)).to(x.dtype)

    @staticmethod
    def liger_mhc_coeffs(x, phi, b, alpha_pre, alpha_post, alpha_res, *, tmax=20):
        n, flat = x.shape[-2], x.flatten(-2).float()
        made = flat @ phi.float() * (flat.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        gates = torch.cat([alpha_pre.expand(n), alpha_post.expand(n), alpha_res.expand(n * n)])
        pre, post, mix = (made * gates + b).split((n, n, n * n), -1)
        return pre.sigmoid(), 2 * post.sigmoid(), plain_sinkhorn(mix.unflatten(-1, (n, n)))

    @staticmethod
    def liger_mhc_pre(x, h_pre):
        return (h_pre.unsqueeze(-2) @ x.float()).squeeze(-2).to(x.dtype)


def test_other_libraries_are_measured_where_they_are_installed(monkeypatch, capsys):
    """On stand-ins with their names: theirs run on a GPU only."""
    for name in ("fla", "fla.ops", "fla.ops.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    fla, mhc_proj = ModuleType("fla.ops.utils.sinkhorn"), ModuleType("mhc_proj")
    fla.sinkhorn = lambda logits, num_iters=20: sm.sinkhorn(logits, rounds=num_iters)
    mhc_proj.MHCProjectionN4 = lambda tol=1e-6: sm.birkhoff
    monkeypatch.setitem(sys.modules, fla.__name__, fla)
    monkeypatch.setitem(sys.modules, mhc_proj.__name__, mhc_proj)
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", Liger("liger"))
    monkeypatch.setattr(peers, "installed", lambda package: True)
    figures = bench("device", options={"device": "cpu", "turns": 1, "compile": False}, only=["projection", "site"])
    assert {"fla sinkhorn-20", "mHC-proj"} < {row["contender"] for row in figures["projection"]}
    assert {(row["contender"], row["pass"]) for row in figures["site"]} > {
        ("Liger", "forward"),
        ("Liger", "forward+backward"),
    }
    assert "Liger" in capsys.readouterr().out


def test_the_site_of_liger_is_the_plain_one(seed):
    tokens, n, C = 5, 4, 8
    inputs = [torch.randn(tokens, n, C), torch.randn(tokens, C), torch.rand(tokens, n)]
    inputs += [
        torch.softmax(torch.randn(tokens, n, n), -1),
        torch.randn(24, n * C) / 6,
        torch.randn(3),
        torch.randn(24),
    ]
    theirs = peers.liger_site(Liger("liger"), *peers.transposed(inputs))
    for a, b in zip(theirs, measure.plain_site(*inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asked where there is no device")
def test_refuses():
    with pytest.raises(LabError, match="no CUDA or ROCm device"):
        bench("device", options={})
    with pytest.raises(LabError, match="--device: got 'tpu'; accepted: cuda, cpu"):
        bench("device", options={"device": "tpu"})
    with pytest.raises(LabError, match="integers >= 2"):
        bench("device", options={"device": "cpu", "n": 1})
