"""The transportation polytope's charts: native and plain agree, derivatives are right, every shape."""

import pytest
import torch

import streammix as sm
from streammix.ops.registry import DISPATCHED, EAGER, operators

NAMESPACES = [DISPATCHED, EAGER]
CHARTS = [(recursive, scaled) for recursive in (False, True) for scaled in (False, True)]


@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize(("recursive", "scaled"), CHARTS)
def test_native_and_plain(n, recursive, scaled, scale, seed):
    logits, G = scale * torch.randn(19, (n - 1) ** 2), torch.randn(19, n, n)
    exact = operators[EAGER].chart(logits.double(), n, recursive, scaled)
    slope = operators[EAGER].chart_backward(G.double(), logits.double(), n, recursive, scaled)
    largest = slope.abs().amax(-1, keepdim=True)
    for dtype, entry, gradient in ((torch.float64, 1e-14, 1e-10), (torch.float32, 1e-6, 1e-3)):
        ours = operators[DISPATCHED].chart(logits.to(dtype), n, recursive, scaled)
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=entry * n)
        ours, plain = (
            operators[name].chart_backward(G.to(dtype), logits.to(dtype), n, recursive, scaled) for name in NAMESPACES
        )
        # A choice's interval is known to eps of one, and logits of size 30 to 30 eps, which the scaled form multiplies:
        # in float32 the formula's own digits are lost before a kernel can lose any, in the worst matrix of the batch.
        off, off_plain = (((D - slope).abs() / largest.clamp(min=1e-3)).max() for D in (ours, plain))
        assert off <= gradient + 4 * off_plain


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize(("recursive", "scaled"), CHARTS)
def test_derivatives(n, recursive, scaled, namespace, seed):
    logits = torch.randn(2, (n - 1) ** 2, dtype=torch.float64, requires_grad=True)
    call = lambda t: operators[namespace].chart(t, n, recursive, scaled)  # noqa: E731
    assert torch.autograd.gradcheck(call, logits)
    assert torch.autograd.gradgradcheck(call, logits, fast_mode=True)


@pytest.mark.parametrize("recursive", [False, True])
def test_bounds_that_tie_have_half_of_the_gradient_each(recursive, seed):
    """At zero logits margins tie, the first choice's say: there native and plain must not choose apart."""
    logits, G = torch.zeros(1, 9, dtype=torch.float64), torch.randn(1, 4, 4, dtype=torch.float64)
    ours, plain = (operators[name].chart_backward(G, logits, 4, recursive, False) for name in NAMESPACES)
    torch.testing.assert_close(ours, plain)
    twin = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(by_autograd(twin, recursive), twin, G)
    torch.testing.assert_close(plain, expected)


def by_autograd(logits, recursive):
    """The plain formula, its own autograd in place of the operator's backward pass."""
    return sm.ops.eager.chart.chart(logits, 4, recursive, False)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4)])
def test_shapes(shape, namespace, seed):
    logits = torch.randn(*shape, 9, requires_grad=True)
    H = operators[namespace].chart(logits, 4, True, True)
    assert H.shape == (*shape, 4, 4)
    (grad,) = torch.autograd.grad(H.square().sum(), logits)
    assert grad.shape == logits.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [3, 4, 6])
def test_any_batch_and_strides(n, dtype, seed):
    ops = operators[DISPATCHED]
    logits, G = torch.randn(70, (n - 1) ** 2, dtype=dtype), torch.randn(70, n, n, dtype=dtype)
    H, D = ops.chart(logits, n, False, True), ops.chart_backward(G, logits, n, False, True)
    for first, size in [(0, 1), (3, 7), (8, 8), (5, 65)]:
        part = slice(first, first + size)
        assert torch.equal(ops.chart(logits[part], n, False, True), H[part])
        assert torch.equal(ops.chart_backward(G[part], logits[part], n, False, True), D[part])
    assert torch.equal(ops.chart(logits.t().contiguous().t(), n, False, True), H)
    assert torch.equal(ops.chart_backward(G.mT.contiguous().mT, logits, n, False, True), D)


@pytest.mark.skipif(not sm.ops.cpu.status().available, reason="the native library is not built")
def test_native_kernels_refuse_what_does_not_fit():
    with pytest.raises(RuntimeError, match="logits"):
        torch.ops.streammix.chart(torch.randn(2, 5), 4, False, False)
    with pytest.raises(RuntimeError, match="float32 and float64"):
        torch.ops.streammix.chart(torch.randn(2, 9, dtype=torch.bfloat16), 4, False, False)
