"""Reads and writes of streams that stand before some of the tokens' dimensions: the numbers of the usual order."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import streammix as sm
from streammix.ops.registry import DISPATCHED, EAGER

BACKENDS = [b.name for b in sm.backends() if b.available]
SHAPES = [((), ()), ((2,), (3,)), ((1,), (2, 3)), ((2, 3), (5,)), ((0,), (3,)), ((2,), (0,)), ((3,), (1,)), ((), (7,))]


def tensors(lead, tokens, n, C, dtype=torch.float32):
    """x (*lead, n, *tokens, C), y, pre, post, res, and the dimension of the streams."""
    wide, batch = torch.promote_types(dtype, torch.float32), (*lead, *tokens)
    x, y = torch.randn(*lead, n, *tokens, C, dtype=dtype), torch.randn(*batch, C, dtype=dtype)
    coefficients = (torch.randn(*batch, *last, dtype=wide) for last in ((n,), (n,), (n, n)))
    return x, y, *coefficients, len(lead)


def check_equal(lead, tokens, n, C, dtype):
    """Values and gradients are those of the streams moved next to the channels, bit for bit, and contiguous."""
    x, y, pre, post, res, dim = tensors(lead, tokens, n, C, dtype)
    usual = x.movedim(dim, -2).contiguous()
    for function, state, others in ((sm.read, x, (pre,)), (sm.write, x, (y, post, res))):
        here = [t.clone().requires_grad_() for t in (state, *others)]
        there = [t.clone().requires_grad_() for t in (usual, *others)]
        out, expected = function(*here, dim=dim), function(*there)
        grad = torch.randn_like(expected)
        grads = torch.autograd.grad(expected, there, grad)
        if function is sm.write:
            expected, grad = expected.movedim(-2, dim), grad.movedim(-2, dim)
        found = torch.autograd.grad(out, here, grad)
        assert out.is_contiguous()
        assert torch.equal(out, expected)
        assert found[0].is_contiguous()
        assert torch.equal(found[0], grads[0].movedim(-2, dim))
        assert all(map(torch.equal, found[1:], grads[1:]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("lead", "tokens"), SHAPES)
@pytest.mark.parametrize("n", [1, 3, 4])
def test_the_numbers_of_the_usual_order(lead, tokens, n, backend, seed):
    with sm.backend(backend):
        for C, dtype in ((1, torch.float32), (33, torch.bfloat16), (64, torch.float16), (7, torch.float64)):
            check_equal(lead, tokens, n, C, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_that_are_larger_than_caches_and_on_threads(dtype, seed):
    check_equal((3,), (1000,), 4, 1024, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend, seed):
    x, y, pre, post, res, dim = (
        t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in tensors((2,), (3,), 2, 3, torch.float64)
    )
    with sm.backend(backend):
        for check in (gradcheck, gradgradcheck):
            assert check(lambda *inputs: sm.read(*inputs, dim=dim), (x, pre))
            assert check(lambda *inputs: sm.write(*inputs, dim=dim), (x, y, post, res))


@pytest.mark.parametrize(("dtype", "namespace"), [(torch.float32, DISPATCHED), (torch.float64, EAGER)])
def test_opcheck(dtype, namespace, seed):
    x, y, pre, post, res, _ = (
        t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in tensors((2,), (3,), 4, 5, dtype)
    )
    grad = torch.randn_like(x, requires_grad=True)
    arguments = {"read": (x, pre), "read_backward": (y, x, pre), "write": (x, y, post, res)}
    for name, tensors_ in (arguments | {"write_backward": (grad, x, y, post, res)}).items():
        torch.library.opcheck(getattr(getattr(torch.ops, namespace), name).default, (*tensors_, -3))


def test_vmap_and_forward_mode(seed):
    x, y, pre, post, res, dim = tensors((5, 2), (3,), 4, 6)
    out = torch.vmap(lambda *inputs: sm.write(*inputs, dim=1))(x, y, post, res)
    torch.testing.assert_close(out, sm.write(x, y, post, res, dim=dim), rtol=0, atol=0)
    _, tangent = torch.func.jvp(lambda x: sm.read(x, pre, dim=dim), (x,), (x,))
    torch.testing.assert_close(tangent, sm.read(x, pre, dim=dim), rtol=0, atol=0)


def test_compiled(seed):
    torch._dynamo.reset()
    x, y, pre, post, res, dim = tensors((2,), (3,), 4, 6)

    def site(x, pre, y, post, res):
        return sm.write(x, y + sm.read(x, pre, dim=dim), post, res, dim=dim)

    inputs = [t.requires_grad_() for t in (x, pre, y, post, res)]
    compiled = torch.compile(site, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*inputs).square().sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad(site(*inputs).square().sum(), inputs))


def test_counted_from_either_end_and_of_any_strides(seed):
    x, y, pre, post, res, _ = tensors((2,), (3,), 4, 6)
    strided = x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    assert not strided.is_contiguous()
    assert torch.equal(sm.read(x, pre, dim=1), sm.read(strided, pre, dim=-3))
    assert torch.equal(sm.write(x, y, post, res, dim=-3), sm.write(strided, y, post, res, dim=1))
    assert torch.equal(sm.read(x[:, :, 0], pre[:, 0], dim=1), sm.read(x[:, :, 0], pre[:, 0]))


def test_coefficients_broadcast(seed):
    x, y, pre, post, res, _ = tensors((2,), (3,), 4, 6)
    one = pre[:, :1], y[:1], post[0, 0], res[:1]
    whole = (t.expand(2, 3, *t.shape[t.ndim - last :]).contiguous() for t, last in zip(one, (1, 1, 1, 2)))
    torch.testing.assert_close(sm.read(x, one[0], dim=1), sm.read(x, next(whole), dim=1), rtol=0, atol=0)
    torch.testing.assert_close(sm.write(x, *one[1:], dim=1), sm.write(x, *whole, dim=1), rtol=0, atol=0)


@pytest.mark.parametrize("dim", [3, -1, -5, 1.0, True, None])
def test_refuses_a_dimension_that_is_none_of_streams(dim):
    x = torch.randn(2, 4, 3, 6)
    with pytest.raises(ValueError, match=r"dim: got .*; accepted with x of shape \(2, 4, 3, 6\): a dimension before"):
        sm.read(x, torch.randn(2, 3, 4), dim=dim)
    with pytest.raises(ValueError, match="accepted: n >= 1 streams in dimension 1"):
        sm.read(torch.randn(2, 0, 3, 6), torch.randn(2, 3, 0), dim=1)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native library is not built")
def test_the_native_operators_refuse_it_as_well():
    x, pre = torch.randn(2, 4, 3, 6), torch.randn(2, 3, 4)
    for dim in (-1, -5, 1):
        with pytest.raises(RuntimeError, match=f"dim of the streams: got {dim}; accepted: -4 to -2"):
            torch.ops.streammix.read(x, pre, dim)
