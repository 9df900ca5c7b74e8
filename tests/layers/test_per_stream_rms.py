"""Logits that each stream makes of its own RMS norm, by the formula and in every use of a site."""

import dataclasses

import pytest
import torch
from torch import nn

import streammix as sm

N, C = 4, 10
BASE = sm.recipes.get("mhc-sinkhorn")


def site(tanh: bool, transposed: bool) -> sm.HyperConnection:
    recipe = dataclasses.replace(
        BASE,
        logits="per-stream-rms-tanh" if tanh else "per-stream-rms",
        manifold_options={"recipe": "lucidrains" if transposed else "mhc"},
        norm_eps=1e-6,
    )
    made = sm.HyperConnection(nn.Linear(C, C), C, N, recipe, site=1)
    with torch.no_grad():
        for parameter in made.logits.parameters():
            parameter.normal_()
    return made


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("tanh", [False, True])
def test_the_formula(tanh, transposed, backend, seed):
    made = site(tanh, transposed).double()
    x = torch.randn(3, N, C, dtype=torch.float64)
    with sm.backend(backend):
        logits = made.logits(x)
    z = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    dynamic = z @ made.logits.weight.mT
    dynamic = dynamic.tanh() if tanh else dynamic
    gate, bias = made.logits.gate, made.logits.bias.split((N, N, N * N))
    mix = dynamic[..., 2:]  # [s, t]: made by stream s
    expected = (dynamic[..., 0], dynamic[..., 1], (mix if transposed else mix.mT).flatten(-2))
    for actual, made_of, g, b in zip(logits, expected, gate, bias, strict=True):
        torch.testing.assert_close(actual, g * made_of + b, rtol=0, atol=1e-12)
    torch.autograd.gradcheck(made, x.requires_grad_())


@pytest.mark.parametrize("tanh", [False, True])
def test_it_starts_as_the_plain_residual_and_resets_to_it(tanh):
    made = site(tanh, False)
    made.reset_parameters()
    x = torch.randn(3, C)
    out = made(sm.expand(x, N)).mean(-2)
    torch.testing.assert_close(out, x + made.branch(x), rtol=0, atol=2e-3)
    fresh = sm.HyperConnection(None, C, N, made.recipe, site=1)
    assert all(torch.equal(a, b) for a, b in zip(made.logits.parameters(), fresh.logits.parameters(), strict=True))


def test_compiled_mapped_and_in_half_precision(seed):
    made = site(True, True)
    x = torch.randn(3, N, C)
    expected = made(x)
    torch._dynamo.reset()
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.func.vmap(made)(x), expected, rtol=0, atol=1e-5)
    half = made.bfloat16()
    assert half.logits.weight.dtype == torch.float32
    assert half(x.bfloat16()).dtype == torch.bfloat16


def test_other_numbers_of_logits_are_refused():
    recipe = dataclasses.replace(BASE, logits="per-stream-rms", manifold="permutations", manifold_options={})
    with pytest.raises(ValueError, match=r"got one with 24 logits; per-stream logits .* come in n.2 = 16"):
        sm.HyperConnection(None, C, N, recipe, site=0)
    with pytest.raises(ValueError, match=r"norm_eps: got None; .* take a norm of each stream and accept"):
        dataclasses.replace(BASE, logits="per-stream-rms", norm_eps=None)


@pytest.mark.parametrize("chart", ["sequential", "recursive"])
def test_a_chart_transposed(chart, seed):
    t = torch.randn(5, (N - 1) ** 2)
    plain, transposed = (sm.manifolds.Transportation(N, chart=chart, transposed=flag) for flag in (False, True))
    assert torch.equal(transposed(t), plain(t).mT)
    assert not torch.allclose(plain(t), plain(t).mT)
