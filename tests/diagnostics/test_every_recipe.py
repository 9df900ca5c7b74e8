"""Records, the first NaN and ablations of stacks of every recipe; those without maps of n streams say so."""

import pytest
import torch

import streammix as sm


class Attention(torch.nn.Module):
    branch_inputs = 3

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(32, 32)

    def forward(self, q, k, v):
        return torch.tanh(self.linear(q) + k * v)


def stack(name):
    return sm.Stack([Attention() if i % 2 == 0 else torch.nn.Linear(32, 32) for i in range(6)], 32, recipe=name)


@pytest.fixture(params=sm.recipes.names())
def model(request, seed):
    return stack(request.param)


def test_records_and_ablations(model):
    x = torch.randn(2, 7, 32)
    expected = model(x)
    if model[0].unmapped:
        with pytest.raises(ValueError, match=r"are not shown"), sm.diagnostics.trace(model):
            pass
        with pytest.raises(ValueError, match=r"cannot be frozen"):
            sm.diagnostics.Ablation(model, lambda: model(x))
        return
    with sm.diagnostics.trace(model, states=True) as record:
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)
    sites = record.sites()
    assert len(sites) == 6
    streams = model.streams
    assert all(site.pre.shape[-1] == site.res.shape[-1] == site.state.shape[-2] == streams for site in sites)
    ablation = sm.diagnostics.Ablation(model, lambda: model(x))
    assert ablation.kl(2, []).abs().max() < 1e-5
    assert ablation.kl(2, list(range(streams))).max() > 1e-3
    assert ablation.kl(2, [0], restored=list(range(streams)), at=4).abs().max() < 1e-5


def test_the_first_nan(model):
    x = torch.randn(2, 7, 32)
    with sm.diagnostics.first_non_finite(model) as found:
        model(x).sum().backward()
    assert found.first is None
    torch.nn.init.constant_(model[3].branch.weight, torch.nan)
    with sm.diagnostics.first_non_finite(model) as found:
        model(x)
    assert (found.first.depth, found.first.what) == (3, "branch")
