"""The compat suite measures what it says it does."""

import json

import pytest
import torch

from streammix.bench.compat import models
from streammix.bench.run import bench
from streammix.lab.errors import LabError


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("streammix.bench.timing.SAMPLE_SECONDS", 0)


@pytest.mark.parametrize("cls", models.CLASSES)
def test_what_is_compared_is_the_same(cls, seed):
    pytest.importorskip("hyper_connections", reason="hyper-connections is not installed")
    theirs, ours = (models.Model(package, cls, "Linear", 8) for package in (models.PACKAGE, models.OURS))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 8)
    expected = theirs(x)
    scale = models.LAYERS * expected.abs().max().item()
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5 * scale)


def test_writes_its_figures(tmp_path, capsys):
    pytest.importorskip("hyper_connections", reason="hyper-connections is not installed")
    bench("compat", options={"dim": (8,), "turns": 1}, json_path=tmp_path / "compat.json")
    rows = json.loads((tmp_path / "compat.json").read_text())["step"]
    assert [(row["class"], row["branch"]) for row in rows] == [(c, b) for c in models.CLASSES for b in models.BRANCHES]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["package_seconds"] / row["streammix_seconds"])
    assert "RMSNorm" in capsys.readouterr().out


def test_gradients_do_not_add_up_over_steps(seed):
    model = models.Model(models.OURS, "mHC", "Linear", 8)
    step = models.training_step(model, 8)
    step()
    first = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    step()
    assert len(first) == len(list(model.parameters()))
    for a, p in zip(first, model.parameters()):
        torch.testing.assert_close(p.grad, a)


def test_refuses(monkeypatch):
    with pytest.raises(LabError, match="--dim and --turns take integers >= 1"):
        bench("compat", options={"dim": (0,)})
    monkeypatch.setattr(models, "PACKAGE", "no_such_package")
    with pytest.raises(LabError, match="pip install hyper-connections"):
        bench("compat", options={})
