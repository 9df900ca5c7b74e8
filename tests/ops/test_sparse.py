"""Operators of sparse sites and of a branch's recent outputs: native and plain agree, derivatives are right."""

import pytest
import torch

import streammix as sm
from streammix.ops.registry import DISPATCHED, EAGER, operators

NAMESPACES = [DISPATCHED, EAGER]
ours, plain = (operators[name] for name in NAMESPACES)
DOUBLE = torch.float64


def drawn(n, k, basis, C, dtype=DOUBLE, batch=(3, 7)):
    """x, v, post, res, index and, for the read, pre."""
    wide = DOUBLE if dtype == DOUBLE else torch.float32
    index = torch.rand(*batch, n).argsort(-1)[..., :k].sort(-1).values
    shapes = (basis, C), (k, basis), (k, k), (n,)
    v, post, res, pre = (torch.randn(*batch, *shape, dtype=wide) for shape in shapes)
    return torch.randn(*batch, n, C).to(dtype), v, post, res, index, pre


def close(found, expected, dtype):
    tolerance = {DOUBLE: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for one, other in zip(found, expected):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance * (1 + other.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k", "basis"), [(16, 4, 4), (5, 5, 1), (3, 1, 2), (64, 33, 1)])
@pytest.mark.parametrize("C", [1, 17, 64])
def test_native_and_plain(n, k, basis, C, dtype, seed):
    x, v, post, res, index, pre = drawn(n, k, basis, C, dtype)
    close(ours.sparse_read(x, pre, index), plain.sparse_read(x, pre, index), dtype)
    du, da, grad = torch.randn_like(x[..., 0, :]), torch.randn_like(x[..., :k, :]), torch.randn_like(x)
    close(*(ops.sparse_read_backward(du, da, x, pre, index) for ops in (ours, plain)), dtype)
    close(*([ops.sparse_write(x, v, post, res, index)] for ops in (ours, plain)), dtype)
    close(*(ops.sparse_write_backward(grad, x, v, post, res, index) for ops in (ours, plain)), dtype)


@pytest.mark.parametrize("C", [5, 16, 70])
@pytest.mark.parametrize(("known", "tokens"), [(9, 9), (20, 9), (1, 1), (14, 3)])
@pytest.mark.parametrize(("filters", "length"), [(3, 12), (1, 4), (2, 1)])
def test_the_native_basis_and_the_plain_one(known, tokens, filters, length, C, seed):
    y, taps, grad = (torch.randn(*s) for s in ((2, 2, known, C), (filters, length, C), (2, 2, tokens, 1 + filters, C)))
    right = plain.temporal_basis(y.double(), taps.double(), tokens)
    slopes = plain.temporal_basis_backward(grad.double(), y.double(), taps.double(), tokens)
    for dtype, tolerance in ((DOUBLE, 1e-10), (torch.float32, 1e-3)):  # a direction may be next to dependent
        inputs = y.to(dtype), taps.to(dtype), tokens
        found = [ours.temporal_basis(*inputs), *ours.temporal_basis_backward(grad.to(dtype), *inputs)]
        for one, other in zip(found, (right, *slopes)):
            assert (one - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_derivatives(namespace, seed):
    x, v, post, res, index, pre = (t.requires_grad_(t.is_floating_point()) for t in drawn(5, 3, 2, 4, batch=(2,)))
    ops = operators[namespace]
    y, taps = (torch.randn(*s, dtype=DOUBLE, requires_grad=True) for s in ((6, 5), (2, 3, 5)))
    for call, inputs in (
        (lambda x, pre: ops.sparse_read(x, pre, index), (x, pre)),
        (lambda *given: ops.sparse_write(*given, index), (x, v, post, res)),
        (lambda y, taps: ops.temporal_basis(y, taps, 4), (y, taps)),
    ):
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("batch", [(), (0,), (2, 0, 3)])
def test_empty_batches(batch, namespace, seed):
    x, v, post, res, index, pre = drawn(5, 3, 2, 4, batch=batch)
    ops = operators[namespace]
    u, active = ops.sparse_read(x, pre, index)
    assert (u.shape, active.shape) == ((*batch, 4), (*batch, 3, 4))
    assert ops.sparse_write(x, v, post, res, index).shape == x.shape
    assert ops.temporal_basis(torch.randn(*batch, 6, 4), torch.randn(2, 3, 4), 0).shape == (*batch, 0, 3, 4)


def test_strides_change_nothing(seed):
    x, v, post, res, index, pre = drawn(6, 3, 2, 8, torch.float32)
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x, v, post, res, index)]
    assert torch.equal(ours.sparse_write(*turned), ours.sparse_write(x, v, post, res, index))
    found = ours.sparse_read(turned[0], pre, turned[4])
    for one, other in zip(found, ours.sparse_read(x, pre, index)):
        assert torch.equal(one, other)


@pytest.mark.skipif(not sm.ops.cpu.status().available, reason="the native library is not built")
@pytest.mark.parametrize("bad", [[0, 4], [-1, 1], [2, 2]])
def test_indices_that_are_none_are_refused(bad):
    x, _, _, _, index, pre = drawn(4, 2, 1, 3, batch=(2,))
    index[1] = torch.tensor(bad)
    with pytest.raises(RuntimeError, match="indices of a token are distinct and in 0"):
        torch.ops.streammix.sparse_read(x, pre, index)


@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_scores_by_one_product_are_those_of_the_norm(mean, seed):
    """The variance is then mean square less squared mean: ten deviations of mean cost two digits of float32's seven."""
    site = sm.Stack([torch.nn.Tanh()], 32, recipe="xhc")[0]
    with torch.no_grad():
        site.router.weight.normal_().div_(site.router.weight.shape[1] ** 0.5)
    x = torch.randn(50, 16, 32) + mean
    scores = site.router.scores(sm.ops.coefficients(x, site.router.rows(x.dtype), site.router.norm_eps)[0])
    torch.testing.assert_close(scores, site.router(x), rtol=0, atol=1e-6 * (1 + mean**2))
