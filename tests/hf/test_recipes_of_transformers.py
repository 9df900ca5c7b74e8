"""Recipes deepseek-v4, glm-5.3, hy4 and gated-residual against the modules of transformers, in float64."""

import dataclasses
import math

import pytest
import tiny_models
import torch
from tiny_models import assert_same_to_rounding, scattered
from torch import nn

import streammix as sm

N, C = 4, 64


@pytest.fixture(autouse=True)
def in_float64(monkeypatch):
    """The modules compute coefficients in float32 whatever their dtype; here they are made to use float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def first(model, name):
    return next(m for m in model.double().modules() if type(m).__name__.endswith(name))


def same(ours, theirs, inputs):
    """Outputs to 3e-15 of their largest, and gradients."""
    assert (ours - theirs).abs().max() <= 3e-15 * theirs.abs().max()
    G = torch.randn_like(theirs)
    found = torch.autograd.grad(ours, [one for one, _ in inputs], G)
    expected = torch.autograd.grad(theirs, [other for _, other in inputs], G)
    assert_same_to_rounding(found, expected)


def streams():
    return torch.randn(2, 5, N, C, dtype=torch.float64, requires_grad=True)


def recipe_of(name, theirs):
    """With the module's own numbers, which the tiny models have chosen unlike the recipe's."""
    recipe = dataclasses.replace(sm.recipes.get(name), norm_eps=theirs.input_norm.eps, read_eps=theirs.hc_eps)
    if recipe.manifold == "sinkhorn":
        options = {"recipe": "deepseek-v4", "rounds": theirs.hc_sinkhorn_iters, "eps": theirs.hc_eps}
        return dataclasses.replace(recipe, manifold_options=options)
    return dataclasses.replace(recipe, write_multiplier=theirs.hc_post_magnitude, write_eps=theirs.hc_eps)


@pytest.mark.parametrize(
    ("name", "family"),
    [("deepseek-v4", "deepseek_v4"), ("glm-5.3", "glm5_next"), ("hy4", "hy_v4"), ("hy4", "hy_v4_vl")],
)
def test_a_site(name, family, seed):
    theirs = first(scattered(tiny_models.FAMILIES[family]()), "HyperConnection")
    branch, x = nn.Linear(C, C).double(), streams()
    site = sm.HyperConnection(branch, C, N, recipe_of(name, theirs), site=0).double()
    own = site.logits
    with torch.no_grad():
        own.weight.copy_(theirs.fn), own.bias.copy_(theirs.base), own.gate.copy_(theirs.scale)
    post, *comb, u = theirs(x)
    out = post.unsqueeze(-1) * branch(u).unsqueeze(-2) + (comb[0].mT @ x if comb else x)
    inputs = [(x, x), (own.weight, theirs.fn), (own.bias, theirs.base), (own.gate, theirs.scale)]
    same(site(x), out, inputs)


@pytest.mark.parametrize(
    ("name", "family"),
    [("deepseek-v4", "deepseek_v4"), ("glm-5.3", "glm5_next"), ("hy4", "hy_v4"), ("hy4", "hy_v4_vl")],
)
def test_the_end(name, family, seed):
    model = scattered(tiny_models.FAMILIES[family]())
    theirs, x = first(model, "HyperHead"), streams()
    recipe, inputs = recipe_of(name, first(model, "HyperConnection")), [(x, x)]
    collapse = sm.Collapse(C, N, recipe).double()
    if collapse.head is not None:
        pairs = list(zip(collapse.head.parameters(), (theirs.hc_fn, theirs.hc_base, theirs.hc_scale), strict=True))
        with torch.no_grad():
            for one, other in pairs:
                one.copy_(other)
        inputs += pairs
    same(collapse(x), theirs(x), inputs)


def test_gated_residual(seed):
    model = scattered(tiny_models.qwen4_exp()).double()
    theirs, end = first(model, "GatedResidual"), model.model.hyper_connection_mixer
    recipe = dataclasses.replace(sm.recipes.get("gated-residual"), rank=12, norm_eps=theirs.hc_norm.eps)
    stack = sm.Stack([branch := nn.Linear(C, C)], C, recipe=recipe).double()
    pairs = [*paired(stack[0].logits, theirs), *paired(stack.collapse.logits, end)]
    with torch.no_grad():
        for one, other in pairs:
            one.copy_(other.reshape(one.shape))
    x = streams()

    def out():
        u, _, post = theirs(x.flatten(-2))
        return x + branch(u).unsqueeze(-2) * post.unsqueeze(-1)

    same(stack.run(x), out(), [(x, x), *pairs[:4]])
    same(stack.end(stack.run(x)), end(out().flatten(-2)), [(x, x), *pairs])
    pre, found, res = stack[0].coefficients(x)
    assert pre.shape == x.shape
    torch.testing.assert_close(found, theirs(x.flatten(-2))[2])
    assert torch.equal(res, torch.eye(N, dtype=torch.float64).expand(2, 5, N, N))


def paired(ours, theirs):
    """Our parameters with theirs."""
    weights = [theirs.hc_norm.weight, theirs.input_mix_weight_down.weight, theirs.input_mix_weight_up.weight]
    weights += [theirs.block_inject_weight.weight] if theirs.block_inject_weight is not None else []
    return list(zip(ours.parameters(), weights, strict=True))


def test_starts(seed):
    """Those of the models: transformers' _init_weights."""
    glm = sm.HyperConnection(None, 512, N, "glm-5.3", site=3).logits
    assert abs(glm.weight.std().item() - 0.02) < 1e-3
    assert (glm.bias.abs().max().item(), glm.gate.tolist()) == (0, [1, 1, 1])
    hy4 = sm.HyperConnection(None, 512, N, "hy4", site=3).logits
    head = sm.Collapse(512, N, "hy4").head
    for part in (hy4, head):
        assert abs(part.weight.std().item() - 0.006) < 3e-4
        torch.testing.assert_close(part.bias[:N], torch.full((N,), -math.log(N - 1)))
        torch.testing.assert_close(part.gate, torch.full_like(part.gate, 0.01))
    assert not hy4.bias[N:].any()
    gated = sm.layers.GatedConnection(None, 512, N, "gated-residual", site=0).logits
    assert not gated.norm.any()
    for weight in (gated.down, gated.up, gated.write):
        assert abs(weight.std().item() - 0.02) < 1e-3


def test_gated_connections_do_not_mix():
    with pytest.raises(
        ValueError, match=r"manifold: got Birkhoff; accepted: identity, because gated connections do not"
    ):
        sm.layers.GatedConnection(None, 8, N, "gated-residual", site=0, manifold="birkhoff")
