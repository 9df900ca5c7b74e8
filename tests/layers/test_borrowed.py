"""`streammix.connect`: a site on parameters that something else owns."""

import dataclasses

import pytest
import torch
from torch import nn

import streammix as sm

N, C = 4, 24
FLATTENED = ["mhc", "mhc-sinkhorn", "ihc", "deepseek-v4", "go-mhc", "mhc-lite"]


def site_of(recipe, dtype=torch.float64):
    site = sm.HyperConnection(nn.Linear(C, C), C, N, recipe, site=1).to(dtype)
    with torch.no_grad():
        for p in site.parameters():
            p.add_(torch.randn_like(p) / 4)
    return site


@pytest.mark.parametrize("recipe", FLATTENED)
@pytest.mark.parametrize("lead", [(), (3, 5), (0, 2)])
def test_it_is_the_layers_site(recipe, lead, seed):
    site = site_of(recipe)
    x = torch.randn(*lead, N, C, dtype=torch.float64, requires_grad=True)
    own = site.logits
    u, finish = sm.connect(x, own.weight, own.bias, own.gate, recipe)
    out = finish(site.branch(u))
    torch.testing.assert_close(out, site(x), rtol=0, atol=0)
    inputs = [x, *site.parameters()]
    G = torch.randn_like(out)
    for ours, theirs in zip(torch.autograd.grad(out, inputs, G), torch.autograd.grad(site(x), inputs, G)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_rounds_and_eps(seed):
    """By the formulas written out in test_deepseek_v4.py, with other numbers."""
    rounds, eps, norm_eps = 3, 1e-3, 1e-2
    site = site_of("deepseek-v4")
    own, x = site.logits, torch.randn(2, N, C, dtype=torch.float64)
    w = (x.flatten(-2) * torch.rsqrt(x.flatten(-2).square().mean(-1, keepdim=True) + norm_eps)) @ own.weight.mT
    pre, post, comb = w.split([N, N, N * N], -1)
    b_pre, b_post, b_comb = own.bias.split([N, N, N * N])
    pre = (pre * own.gate[0] + b_pre).sigmoid() + eps
    post = 2 * (post * own.gate[1] + b_post).sigmoid()
    comb = (comb * own.gate[2] + b_comb).unflatten(-1, (N, N)).softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(rounds - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    u, finish = sm.connect(x, own.weight, own.bias, own.gate, rounds=rounds, eps=eps, norm_eps=norm_eps)
    torch.testing.assert_close(u, (pre.unsqueeze(-1) * x).sum(-2), rtol=0, atol=1e-13)
    expected = post.unsqueeze(-1) * u.unsqueeze(-2) + comb.mT @ x
    torch.testing.assert_close(finish(u), expected, rtol=0, atol=1e-13)


def test_half_precision_streams_and_parameters(seed):
    site = site_of("mhc", torch.float32)
    own, x = site.logits, torch.randn(2, N, C, dtype=torch.bfloat16)
    u, finish = sm.connect(x, own.weight.bfloat16(), own.bias, own.gate, "mhc")
    assert u.dtype == finish(u).dtype == torch.bfloat16


def test_under_transforms(seed):
    site = site_of("mhc")
    own, x = site.logits, torch.randn(3, N, C, dtype=torch.float64)

    def read(weight, x):
        return sm.connect(x, weight, own.bias, own.gate, "mhc")[0].square().sum()

    inside = torch.func.vmap(torch.func.grad(read), in_dims=(None, 0))(own.weight, x)
    weight = own.weight.detach().requires_grad_()
    for i in range(3):
        torch.testing.assert_close(inside[i], torch.autograd.grad(read(weight, x[i]), weight)[0])


def parameters(rows, gates):
    return torch.randn(rows, N * C), torch.randn(rows), torch.randn(gates)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": torch.ones(24, C)},
            r"weight: got shape \(24, 24\); accepted by recipe 'mhc' with 4 .*: \(24, 96\)",
        ),
        ({"bias": torch.ones(8)}, r"bias: got shape \(8,\); .*: \(24,\)"),
        ({"gate": torch.ones(2)}, r"gate: got shape \(2,\); .*: \(3,\)"),
        ({"recipe": "hc"}, r"recipe: got 'hc', with 'hyper' connections and per-stream logits; accepted"),
        ({"recipe": "frac"}, r"recipe: got 'frac', with 'frac' connections"),
        ({"recipe": "tbp"}, r"recipe: got 'tbp', whose matrices in 'transportation' have .*; accepted"),
        ({"rounds": 3}, r"rounds: got 3, but recipe 'mhc' has none; accepted: None"),
        ({"rounds": 0}, r"rounds: got 0; accepted: integers >= 1"),
        ({"eps": 1e-6}, r"eps: got 1e-06, but recipe 'mhc' has none; accepted: None"),
        ({"eps": -1.0}, r"eps: got -1.0; accepted"),
        ({"norm_eps": -1.0}, r"norm_eps: got -1.0; accepted"),
        ({"recipe": "mch"}, r"recipe: none is called 'mch'"),
    ],
)
def test_what_does_not_fit(change, message):
    weight, bias, gate = parameters(24, 3)
    given = {"weight": weight, "bias": bias, "gate": gate, "recipe": "mhc"} | change
    with pytest.raises(ValueError, match=message):
        sm.connect(torch.randn(2, N, C), **given)


def test_a_frozen_gate_is_not_asked_for(seed):
    recipe = dataclasses.replace(sm.recipes.get("mhc"), freeze_mix_gate=True, gate=0.5)
    site = site_of(recipe)
    x = torch.randn(2, N, C, dtype=torch.float64)
    u, finish = sm.connect(x, site.logits.weight, site.logits.bias, site.logits.gate, recipe)
    torch.testing.assert_close(finish(site.branch(u)), site(x), rtol=0, atol=0)
