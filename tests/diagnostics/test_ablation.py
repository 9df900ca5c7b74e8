import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traced_networks import DIM, STREAMS, Borrowing, Stacked

import streammix as sm
from streammix.diagnostics import Ablation, trace


def by_hand(model: Stacked, x: torch.Tensor, changes: dict[int, tuple[list[int], torch.Tensor | None]]) -> torch.Tensor:
    """Logits where, with the clean run's weights, streams after a site are set to zero or to given ones."""
    with torch.no_grad(), trace(model, states=True) as clean:
        model(x)
    with torch.no_grad():
        state = sm.expand(x, STREAMS)
        for depth, visit in enumerate(clean.visits):
            u = torch.einsum("tn,tnc->tc", visit.pre, state)
            y = model.stack[depth].branch(u)
            state = torch.einsum("tij,tjc->tic", visit.res, state) + visit.post[..., None] * y[:, None]
            streams, content = changes.get(depth, ([], None))
            for stream in streams:
                state[:, stream] = 0 if content is None else content[:, stream]
        return model.head(model.stack.collapse(state))


def states(model: Stacked, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad(), trace(model, states=True) as clean:
        model(x)
    return [visit.state for visit in clean.visits]


def kl(clean: torch.Tensor, altered: torch.Tensor) -> torch.Tensor:
    p, q = F.softmax(clean, -1), F.softmax(altered, -1)
    return (p * (p / q).log()).sum(-1)


@pytest.fixture
def model(seed):
    return Stacked("mhc").double()


@pytest.fixture
def x(seed):
    return torch.randn(5, DIM, dtype=torch.float64)


def test_deleting_is_what_one_would_do_by_hand(model, x):
    ablation = Ablation(model, lambda: model(x))
    for site, streams in ((0, [0]), (1, [1, 3]), (3, [2])):
        expected = kl(model(x).detach(), by_hand(model, x, {site: (streams, None)}))
        torch.testing.assert_close(ablation.kl(site, streams), expected, rtol=0, atol=1e-12)
        assert (expected > 1e-6).all()


def test_restoring_is_what_one_would_do_by_hand(model, x):
    ablation, kept = Ablation(model, lambda: model(x)), states(model, x)
    altered = by_hand(model, x, {0: ([0, 1], None), 2: ([0, 3], kept[2])})
    found = ablation.kl(0, [0, 1], restored=[0, 3], at=2)
    torch.testing.assert_close(found, kl(model(x).detach(), altered), rtol=0, atol=1e-12)


def test_restoring_all_streams_rescues_all(model, x):
    ablation = Ablation(model, lambda: model(x))
    assert ablation.kl(0, [0, 1, 2, 3], restored=range(4), at=1).abs().max() < 1e-13
    assert ablation.kl(0, []).abs().max() < 1e-13


def test_each_stream_after_each_site(model, x):
    ablation = Ablation(model, lambda: model(x))
    table = ablation.each()
    assert table.shape == (4, STREAMS)
    assert table[2, 1] == ablation.kl(2, [1]).mean()
    assert ablation.sites == [f"stack.sites.{i}" for i in range(4)]
    assert torch.equal(ablation.kl("stack.sites.2", [1]), ablation.kl(2, [1]))


def test_the_model_is_left_as_it_was(model, x):
    before, ablation = model(x), Ablation(model, lambda: model(x))
    ablation.kl(1, [0])
    assert torch.equal(model(x), before)
    for site in model.stack:
        assert not site.observers
        assert "join" not in vars(site)
    ablation.run = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        ablation.kl(1, [0])
    assert torch.equal(model(x), before)


def test_single_pass_sites_hand_on_frozen_weights(x):
    model = Stacked("deepseek-v4.1").double()
    ablation = Ablation(model, lambda: model(x))
    assert ablation.kl(0, []).abs().max() < 1e-13
    assert ablation.kl(1, [0]).min() > 0
    assert ablation.kl(1, [0], restored=range(4), at=2).abs().max() < 1e-13


def test_an_activation_follows_the_write_and_precedes_the_change(x):
    stack = sm.Stack([nn.Linear(DIM, DIM) for _ in range(3)], DIM, STREAMS, activation=nn.Softplus()).double()
    ablation = Ablation(stack, lambda: stack(x))
    assert ablation.kl(0, [0, 1], restored=range(4), at=1).abs().max() < 1e-13
    assert ablation.kl(0, [0, 1]).min() > 0


def test_sites_on_borrowed_parameters_are_the_same(model, x):
    borrowing = Borrowing(model)
    ours, theirs = Ablation(model, lambda: model(x)), Ablation(borrowing, lambda: borrowing(x))
    assert theirs.sites == [f"weights.{i}" for i in range(4)]
    torch.testing.assert_close(theirs.each(), ours.each(), rtol=0, atol=1e-12)
    torch.testing.assert_close(theirs.kl(0, [1], restored=[1], at=2), ours.kl(0, [1], restored=[1], at=2))


@pytest.mark.refusal
def test_bad_input(model, x):
    ablation = Ablation(model, lambda: model(x))
    for options, message in (
        ({"site": 4, "streams": [0]}, r"site: got 4; accepted: integers from 0 to 3"),
        ({"site": "stack.sites.9", "streams": [0]}, "stack.sites.9"),
        ({"site": 0, "streams": [4]}, r"streams: got \[4\]; accepted: integers from 0 to 3"),
        ({"site": 1, "streams": [0], "restored": [0]}, "accepted: both or none"),
        ({"site": 1, "streams": [0], "restored": [0], "at": 1}, "a site after 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ablation.kl(**options)
    with pytest.raises(ValueError, match="passed no site"):
        Ablation(nn.Linear(2, 2), lambda: x)
    frac = Stacked("frac").double()
    with pytest.raises(ValueError, match="cannot be frozen"):
        Ablation(frac, lambda: frac(x))
    with pytest.raises(TypeError, match=r"run\(\): got tuple"):
        Ablation(model, lambda: (model(x),))
    other = iter([model, Stacked("mhc").double()])
    changing = Ablation(model, lambda: next(other)(x))
    with pytest.raises(ValueError, match="passed 0 sites, 4 the first time"):
        changing.kl(0, [0])
