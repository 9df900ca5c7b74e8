"""Recipe "deepseek-v4" and Collapse("head") against the released model's formulas, written out, in float64."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

import streammix as sm

N, C, EPS, ROUNDS = 4, 24, 1e-6, 20


def rms_norm(flat):
    return flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + EPS)


def v4_layer(x, fn, scale, base, sublayer):
    w = F.linear(rms_norm(x.flatten(-2)), fn)
    w_pre, w_post, w_comb = w.split([N, N, N * N], -1)
    b_pre, b_post, b_comb = base.split([N, N, N * N])
    pre = torch.sigmoid(w_pre * scale[0] + b_pre) + EPS
    post = 2 * torch.sigmoid(w_post * scale[1] + b_post)
    comb = (w_comb * scale[2] + b_comb).unflatten(-1, (N, N)).softmax(-1) + EPS
    comb = comb / (comb.sum(-2, keepdim=True) + EPS)
    for _ in range(ROUNDS - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + EPS)
        comb = comb / (comb.sum(-2, keepdim=True) + EPS)
    y = sublayer((pre.unsqueeze(-1) * x).sum(-2))
    out = post.unsqueeze(-1) * y.unsqueeze(-2) + comb.transpose(-1, -2) @ x
    return out, pre, post, comb


def v4_head(x, fn, scale, base):
    w = torch.sigmoid(F.linear(rms_norm(x.flatten(-2)), fn) * scale + base) + EPS
    return (w.unsqueeze(-1) * x).sum(-2)


def randomised(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p))
    return module.double()


def test_layer(seed):
    branch = nn.Sequential(nn.Linear(C, C), nn.Tanh())
    site = randomised(sm.HyperConnection(branch, C, N, "deepseek-v4", site=0))
    x = torch.randn(3, 5, N, C, dtype=torch.float64, requires_grad=True)
    logits = site.logits
    out, pre, post, comb = v4_layer(x, logits.weight, logits.gate, logits.bias, branch)
    for ours, theirs in zip((site(x), *site.coefficients(x)), (out, pre, post, comb.mT)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    inputs = [x, *site.parameters()]
    G = torch.randn_like(x)
    for ours, theirs in zip(torch.autograd.grad(site(x), inputs, G), torch.autograd.grad(out, inputs, G)):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_head(seed):
    collapse = randomised(sm.Collapse(C, N, how="head"))
    x = torch.randn(3, 5, N, C, dtype=torch.float64, requires_grad=True)
    head = collapse.head
    out = v4_head(x, head.weight, head.gate, head.bias)
    torch.testing.assert_close(collapse(x), out, rtol=0, atol=1e-12)
    inputs = [x, *collapse.parameters()]
    G = torch.randn_like(out)
    for ours, theirs in zip(torch.autograd.grad(collapse(x), inputs, G), torch.autograd.grad(out, inputs, G)):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_the_exact_projection_in_the_released_orientation(seed):
    """Birkhoff(transposed=True) is what the rounds approach for the same logits."""
    logits = torch.randn(3, 5, N * N, dtype=torch.float64)
    rounds = sm.manifolds.Sinkhorn(N, recipe="deepseek-v4", rounds=300, eps=1e-14)
    exact = sm.manifolds.Birkhoff(N, transposed=True)
    torch.testing.assert_close(exact(logits), rounds(logits), rtol=0, atol=1e-9)
    assert torch.equal(exact(logits), sm.manifolds.Birkhoff(N)(logits).mT)
    assert not exact.projects  # so that no operator stands in for it


def test_a_head_in_place_of_a_recipes_ending_is_deepseeks(seed):
    replaced = sm.Collapse(512, N, dataclasses.replace(sm.recipes.get("mhc"), collapse="head"))
    assert replaced.read_eps == replaced.head.norm_eps == 1e-6
    assert abs(replaced.head.weight.std().item() - 0.02) < 2e-3
    assert replaced.head.gate.tolist() == [1]


def test_start():
    """HF's initialisation: fn N(0, 0.02^2), base 0, scale 1."""
    site = sm.HyperConnection(None, 512, N, "deepseek-v4", site=0)
    assert abs(site.logits.weight.std().item() - 0.02) < 1e-3
    assert site.logits.bias.abs().max() == 0
    assert site.logits.gate.tolist() == [1, 1, 1]
