"""Every manifold keeps what it declares, for any logits."""

import copy
import pickle

import pytest
import torch
from torch.autograd import gradcheck

import streammix as sm


def all_manifolds(n):
    named = [sm.manifolds.get(name, n) for name in sm.manifolds.names() if name != "sinkhorn"]
    return named + [sm.manifolds.Sinkhorn(n, recipe=r) for r in sm.ops.sinkhorn.eager.RECIPES]


def label(manifold):
    return f"{type(manifold).__name__}-{manifold.streams}-{getattr(manifold, 'recipe', '')}"


MANIFOLDS = [m for n in (1, 2, 3, 4, 6) for m in all_manifolds(n)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=label)
def test_guarantees_hold(manifold, scale, dtype, seed):
    n = manifold.streams
    H = manifold(scale * torch.randn(200, manifold.num_logits, dtype=dtype))
    assert H.shape == (200, n, n)
    assert H.dtype == dtype
    assert manifold.contains(H, atol=4e-7 * n).all()


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=label)
def test_start_is_close_to_the_identity(manifold):
    n = manifold.streams
    H = manifold(manifold.identity_logits())
    assert (H - torch.eye(n)).abs().max() < 4e-3
    assert manifold.contains(H).item()


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=label)
def test_gradient_flows_at_the_start(manifold, seed):
    if manifold.num_logits == 0 or (manifold.streams == 1 and not isinstance(manifold, sm.manifolds.Unconstrained)):
        return  # a set of one matrix has nothing to learn
    logits = manifold.identity_logits().requires_grad_()
    H = manifold(logits)
    (g,) = torch.autograd.grad((H * torch.randn_like(H)).sum(), logits)
    assert g.abs().max() > 1e-5


@pytest.mark.parametrize("manifold", [m for m in MANIFOLDS if m.streams == 3], ids=label)
def test_gradcheck(manifold, seed):
    assert gradcheck(manifold, (torch.randn(2, manifold.num_logits, dtype=torch.float64, requires_grad=True),))


def test_exact_marginals_after_bfloat16_logits(seed):
    manifold = sm.manifolds.Birkhoff(4)
    logits = (10 * torch.randn(5000, 16)).bfloat16().float()
    H = manifold(logits).double()
    assert (H.sum(-1) - 1).abs().max() <= 4e-7 * 4
    assert (H.sum(-2) - 1).abs().max() <= 4e-7 * 4


def test_composition_over_96_sites_does_not_drift(seed):
    manifold = sm.manifolds.Birkhoff(4)
    P = torch.eye(4).expand(100, 4, 4)
    for _ in range(96):
        P = manifold(10 * torch.randn(100, 16)) @ P
    assert manifold.contains(P, atol=5e-5).all()


def test_contains_refuses():
    manifold = sm.manifolds.Birkhoff(2)
    good = torch.tensor([[0.25, 0.75], [0.75, 0.25]])
    cases = torch.stack(
        [
            good,
            torch.tensor([[0.5, 0.5], [0.4, 0.6]]),  # columns
            torch.tensor([[1.5, -0.5], [-0.5, 1.5]]),  # signs
            torch.tensor([[1.0, 0.0], [0.0, 0.9]]),  # a row
            torch.full((2, 2), torch.nan),
        ]
    )
    assert manifold.contains(cases).tolist() == [True, False, False, False, False]
    assert not sm.manifolds.Identity(2).contains(good).item()


def test_orientation_of_truncated_recipes(seed):
    """DeepSeek's matrix is applied transposed, so its exact axis, the columns, is the rows of H_res."""
    logits = 10 * torch.randn(1000, 16)
    H = sm.manifolds.Sinkhorn(4, recipe="deepseek-v4")(logits)
    assert torch.equal(H, sm.sinkhorn(logits.view(-1, 4, 4), recipe="deepseek-v4").mT)
    assert (H.sum(-1) - 1).abs().max() < 3e-6
    assert (H.sum(-2) - 1).abs().max() > 1e-3


def test_bad_input():
    with pytest.raises(ValueError, match=r"'birkof'; accepted: birkhoff, sinkhorn"):
        sm.manifolds.get("birkof", 4)
    for streams in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=r"streams: got .*accepted: integers >= 1"):
            sm.manifolds.Birkhoff(streams)
    with pytest.raises(ValueError, match=r"\(2, 15\); Birkhoff\(streams=4\) accepts \(\.\.\., 16\)"):
        sm.manifolds.Birkhoff(4)(torch.zeros(2, 15))
    with pytest.raises(ValueError, match=r"Identity\(streams=4\) accepts \(\.\.\., 0\)"):
        sm.manifolds.Identity(4)(torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"'deepseek'; accepted: mhc"):
        sm.manifolds.Sinkhorn(4, recipe="deepseek")
    with pytest.raises(TypeError, match=r"int64"):
        sm.manifolds.Birkhoff(4)(torch.zeros(2, 16, dtype=torch.int64))


@pytest.mark.parametrize("manifold", [m for m in MANIFOLDS if m.streams == 4], ids=label)
def test_copies(manifold, seed):
    logits = torch.randn(3, manifold.num_logits)
    for twin in (copy.deepcopy(manifold), pickle.loads(pickle.dumps(manifold))):
        assert torch.equal(twin(logits), manifold(logits))
