"""norm_eps=None: torch's default for rms_norm, in the dtype that coefficients are computed in."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import streammix as sm
from streammix.layers.generators import CP, Flattened, Generator, Start

N, C = 4, 5
SIZES = (N, N, N * N)
BACKENDS = ["eager", "auto"]
COMPUTING = {torch.float64: torch.float64, torch.float32: torch.float32, torch.bfloat16: torch.float32}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}
START = Start((0.0,) * sum(SIZES), weight_std=0.3, gate=1.0)
GENERATORS = {
    "flattened": lambda: Flattened(C, N, SIZES, None, start=START),
    "cp": lambda: CP(C, N, N * N, 2, None, start=START),
}


def generator(name: str, dtype: torch.dtype) -> Generator:
    """With gates of one and biases of zero: logits are phi times the normalised state."""
    return GENERATORS[name]().to(COMPUTING[dtype])


def phi(logits: Generator) -> torch.Tensor:
    if isinstance(logits, Flattened):
        return logits.weight
    A, B = (p.unflatten(-1, (3, -1)) for p in (logits.stream, logits.channel))
    t = torch.einsum("stk,ctk->tksc", A, B).flatten(-2)
    read, write, res, D = logits.out
    return torch.cat([read @ t[0], write @ t[1], torch.einsum("ik,jk,kv->ijv", res, D, t[2]).flatten(0, 1)])


def same(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    atol = TOLERANCE[dtype] * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [0, 1e-12, 1e-8, 3e-4, 0.02, 1, 1e6])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", GENERATORS)
def test_it_is_torchs_rms_norm(name, dtype, backend, size, seed):
    """In value and gradients, from a state of zero to a large one."""
    logits = generator(name, dtype)
    x = (size * torch.randn(3, N, C)).to(dtype).requires_grad_()
    inputs = (x, *(p for key, p in logits.named_parameters() if key not in ("bias", "gate")))
    v = F.rms_norm(x.flatten(-2).to(COMPUTING[dtype]), (N * C,), eps=None)
    expected = v @ phi(logits).mT
    with sm.backend(backend):
        actual = torch.cat(logits(x), -1)
    same(actual, expected, dtype)
    grad = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(out, inputs, grad) for out in (actual, expected))
    for a, e in zip(ours, theirs, strict=True):
        same(a, e, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", GENERATORS)
def test_it_is_the_authors_normalize_to_float32_rounding(name, backend, seed):
    logits = generator(name, torch.float32)
    x = torch.randn(3, N, C)
    with sm.backend(backend):
        actual = torch.cat(logits(x), -1)
    expected = (N * C) ** 0.5 * F.normalize(x.flatten(-2), dim=-1) @ phi(logits).mT
    torch.testing.assert_close(actual, expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", GENERATORS)
def test_a_state_of_zero(name, dtype, backend, seed):
    """Nothing but biases, and a gradient of phi' grad / sqrt(eps)."""
    logits = generator(name, dtype)
    x = torch.zeros(2, N, C, dtype=dtype, requires_grad=True)
    with sm.backend(backend):
        made = torch.cat(logits(x), -1)
    assert not made.any()
    grad = torch.randn_like(made)
    expected = (grad @ phi(logits)).unflatten(-1, (N, C)) / torch.finfo(COMPUTING[dtype]).eps ** 0.5
    same(torch.autograd.grad(made, x, grad)[0], expected.to(dtype), dtype)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["mhc", "kromhc"])
def test_in_a_stack_it_is_that_number(name, dtype, backend, grad, seed):
    """To the bit, on the ways from site to site too, with padding among the tokens."""
    none = dataclasses.replace(sm.recipes.get(name), norm_eps=None, weight_std=0.1)
    number = dataclasses.replace(none, norm_eps=torch.finfo(COMPUTING[dtype]).eps)
    x = (1e-4 * torch.randn(6, C)).to(dtype)
    x[2] = 0
    branch = nn.Linear(C, C, bias=False).to(dtype)
    results = []
    for recipe in (none, number):
        torch.manual_seed(3)
        stack = sm.Stack([branch] * 3, C, recipe=recipe)
        tokens = x.clone().requires_grad_()
        with sm.backend(backend), torch.set_grad_enabled(grad):
            out = stack(tokens)
        results.append([out, *torch.autograd.grad(out.sum(), [tokens, *stack.parameters()])] if grad else [out])
    for a, b in zip(*results, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)
