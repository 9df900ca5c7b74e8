"""Streams that are folded into the batch: read and written where they lie, in one pass, and the same in every mode."""

import copy
import math

import pytest
import torch
from torch import nn

from streammix.compat.hyper_connections import HyperConnections, mHC
from streammix.compat.hyper_connections import mHCv2 as v2

CLASSES = [HyperConnections, mHC, v2.mHC]
S, D = 4, 16


def layer_and_streams(cls, *tokens):
    layer = cls(S, dim=D, branch=nn.Linear(D, D), layer_index=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    shape = (2, *tokens, S, D) if cls is v2.mHC else (2 * S, *tokens, D)
    return layer, torch.randn(shape, requires_grad=True)


def gradients(layer, x, grad):
    return torch.autograd.grad(layer(x), [x, *layer.parameters()], grad)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_state_is_not_copied(cls, seed, monkeypatch):
    monkeypatch.setenv("KINETO_LOG_LEVEL", "99")
    layer, x = layer_and_streams(cls, 9)
    grad = torch.randn_like(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        gradients(layer, x, grad)
    events = [e for e in profile.events() if e.input_shapes and math.prod(e.input_shapes[0]) == x.numel()]
    assert {"streammix::write", "streammix::rows_site_read"} <= {e.name for e in events}
    assert not [e for e in events if e.name in ("aten::copy_", "aten::clone")]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 3), (0,)])
def test_transforms_and_the_compiler_see_the_same_site(cls, tokens, seed):
    """torch.func's transforms take the plain formulas in place of the one pass."""
    torch._dynamo.reset()
    layer, x = layer_and_streams(cls, *tokens)
    grad = torch.randn_like(x)
    expected = gradients(layer, x, grad)
    _, pull = torch.func.vjp(lambda x: layer(x), x)
    torch.testing.assert_close(pull(grad)[0], expected[0], rtol=1e-4, atol=1e-5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, x, grad), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", CLASSES)
def test_strides_copies_and_narrow_streams(cls, seed):
    layer, x = layer_and_streams(cls, 3)
    expected = layer(x)
    strided = x.detach().transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(copy.deepcopy(layer)(strided), expected)
    narrow = copy.deepcopy(layer).bfloat16()(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize("cls", CLASSES)
def test_second_derivatives(cls, seed):
    layer, _ = layer_and_streams(cls)
    x = torch.randn((2, S, D) if cls is v2.mHC else (2 * S, D), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer.double(), x, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


def test_another_activation_takes_the_separate_steps(seed):
    layer, x = layer_and_streams(HyperConnections, 3)
    layer.act = nn.Softsign()
    z = torch.nn.functional.normalize(x, dim=-1) * D**0.5 * (layer.norm.gamma + 1)
    alpha = layer.act(z @ layer.dynamic_alpha_fn) * layer.dynamic_alpha_scale
    alpha = alpha.unflatten(0, (2, S)).movedim(1, -2) + layer.static_alpha
    u = (alpha[..., :1] * x.unflatten(0, (2, S)).movedim(1, -2)).sum(-2)
    torch.testing.assert_close(layer.width_connection(x)[0], u)
