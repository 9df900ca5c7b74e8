"""The Cayley map: native and plain agree, derivatives are right, every shape."""

import pytest
import torch

import streammix as sm
from streammix.ops.eager import cayley as plain
from streammix.ops.registry import DISPATCHED, EAGER, operators

NAMESPACES = [DISPATCHED, EAGER]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("scale", [1e-3, 1, 30, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_and_plain(n, scale, dtype, seed):
    """Against the plain one in float64, of entries as near as float32 takes them; that one against a solve."""
    entries = scale * torch.randn(19, n * (n - 1) // 2, dtype=dtype)
    wide = entries.double()
    if dtype == torch.float32:
        wide = wide * (2.0**22 / wide.abs().amax(-1, keepdim=True)).clamp(max=1)
    Q = operators[DISPATCHED].cayley(entries, n)
    exact = plain.cayley(wide, n)
    if scale <= 1e4:
        A, eye = plain.skew(entries.double(), n), torch.eye(n, dtype=torch.float64)
        torch.testing.assert_close(exact, torch.linalg.solve(eye + A, eye - A), rtol=0, atol=1e-11 * max(1, scale))
    if dtype == torch.float32 or scale <= 30:
        torch.testing.assert_close(Q.double(), exact, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)
    gram = Q.double().mT @ Q.double()
    assert (gram - torch.eye(n)).abs().max() < (4e-7 if dtype == torch.float32 else 4e-15)
    G = torch.randn_like(Q)
    ours = operators[DISPATCHED].cayley_backward(G, Q)
    expected = plain.cayley_backward(G.double(), Q.double())
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_derivatives(n, namespace, seed):
    entries = torch.randn(2, n * (n - 1) // 2, dtype=torch.float64, requires_grad=True)
    call = lambda a: operators[namespace].cayley(a, n)  # noqa: E731
    assert torch.autograd.gradcheck(call, entries)
    assert torch.autograd.gradgradcheck(call, entries)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4)])
def test_shapes(shape, namespace, seed):
    entries = torch.randn(*shape, 6, requires_grad=True)
    Q = operators[namespace].cayley(entries, 4)
    assert Q.shape == (*shape, 4, 4)
    (grad,) = torch.autograd.grad(Q.sum(), entries)
    assert grad.shape == entries.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [3, 4, 6])
def test_any_batch_and_strides(n, dtype, seed):
    ops = operators[DISPATCHED]
    entries, G = torch.randn(70, n * (n - 1) // 2, dtype=dtype), torch.randn(70, n, n, dtype=dtype)
    Q = ops.cayley(entries, n)
    D = ops.cayley_backward(G, Q)
    for first, size in [(0, 1), (3, 7), (8, 8), (5, 65)]:
        part = slice(first, first + size)
        assert torch.equal(ops.cayley(entries[part], n), Q[part])
        assert torch.equal(ops.cayley_backward(G[part], Q[part]), D[part])
    assert torch.equal(ops.cayley(entries.t().contiguous().t(), n), Q)
    assert torch.equal(ops.cayley_backward(G.mT.contiguous().mT, Q.mT.contiguous().mT), D)


def test_second_derivatives_under_autocast(seed):
    entries = torch.randn(3, 6, requires_grad=True)

    def second():
        (first,) = torch.autograd.grad(
            sm.ops.operators_for(entries, 4).cayley(entries, 4).pow(3).sum(), entries, create_graph=True
        )
        return torch.autograd.grad(first.square().sum(), entries)[0]

    plain_one = second()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(second(), plain_one)


@pytest.mark.skipif(not sm.ops.cpu.status().available, reason="the native library is not built")
def test_native_kernels_refuse_what_does_not_fit():
    with pytest.raises(RuntimeError, match="entries"):
        torch.ops.streammix.cayley(torch.randn(2, 5), 4)
    with pytest.raises(RuntimeError, match="float32 and float64"):
        torch.ops.streammix.cayley(torch.randn(2, 6, dtype=torch.bfloat16), 4)
