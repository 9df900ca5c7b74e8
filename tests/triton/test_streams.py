"""Kernels on the streams against the plain formulas: on a device where there is one, else interpreted.

The formulas themselves are compared with float64 elsewhere; the coefficients are here too, because their products are
made of 16-bit numbers.
"""

import pytest
import torch

from streammix.ops.eager import birkhoff as eager_birkhoff
from streammix.ops.eager import site as eager_site
from streammix.ops.eager import streams as eager_streams
from streammix.ops.operators.site import _next_site
from streammix.ops.triton import launch_streams as ours

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(37, 4, 200), (5, 2, 64), (3, 3, 1100), (18, 5, 40), (20, 8, 24), (1, 4, 7)]  # tokens, n, C
CODES = (1, 2, 1e-3, 1.5, 1e-2)  # sigmoid, twice sigmoid, eps of the reads, multiplier and eps of the writes
SETTINGS = (0.3, 1e-6, *CODES)  # frozen gate, eps of the norm


class Case:
    def __init__(self, dtype, tokens, n, C):
        make = lambda *shape: torch.randn(*shape, device=DEVICE)  # noqa: E731
        self.x, self.y, self.du = (make(*shape).to(dtype) for shape in ((tokens, n, C), (tokens, C), (tokens, C)))
        self.dstate = make(tokens, n, C).to(dtype)
        self.pre, self.post = make(tokens, n).sigmoid(), 2 * make(tokens, n).sigmoid()
        self.res = eager_birkhoff.birkhoff(make(tokens, n, n))
        rows = n * n + 2 * n
        self.weight, self.gate, self.bias = 2 * make(rows, n * C) / (n * C) ** 0.5, make(3), make(rows)
        self.dpost, self.dmix, self.dP = make(tokens, n), make(tokens, n * n), make(tokens, rows)
        self.state = eager_streams.write(self.x, self.y, self.post, self.res)
        self.rounding = 2 * max(torch.finfo(dtype).eps, 3e-6)

    def rows_of(self, x):
        return eager_site.coefficients(x, self.weight, 1e-6)


@pytest.fixture(params=SHAPES, ids=str)
def case(request, dtype, seed):
    return Case(dtype, *request.param)


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def dtype(request):
    return request.param


def same(results, wanted, within):
    assert len(results) == len(wanted)
    for i, (a, b) in enumerate(zip(results, wanted)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), i
        error = (a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)
        assert error <= within, (i, error)


def test_read_and_write(case):
    c = case
    same([ours.read(c.x, c.pre)], [eager_streams.read(c.x, c.pre)], c.rounding)
    arguments = c.du, c.x, c.pre
    same(ours.read_backward(*arguments), eager_streams.read_backward(*arguments), c.rounding)
    arguments = c.x, c.y, c.post, c.res
    same([ours.write(*arguments)], [eager_streams.write(*arguments)], c.rounding)
    same(ours.write_backward(c.dstate, *arguments), eager_streams.write_backward(c.dstate, *arguments), c.rounding)


def test_coefficients(case):
    c = case
    wanted = [t.float() for t in eager_site.coefficients(c.x.double(), c.weight.double(), 1e-6)]
    same(ours.coefficients(c.x, c.weight, 1e-6), wanted, 5e-6)
    arguments = c.dP, c.x, c.weight, *c.rows_of(c.x)
    same(ours.coefficients_backward(*arguments), eager_site.coefficients_backward(*arguments), c.rounding)


def test_a_site(case):
    c = case
    for gate in (c.gate, c.gate[:2]):  # three gates learned, or the last one frozen
        arguments = c.x, c.weight, gate, c.bias, *SETTINGS
        same(ours.site_read(*arguments), eager_site.site_read(*arguments), c.rounding)
        arguments = c.du, c.dpost, c.dmix, c.x, c.weight, gate, c.bias, *c.rows_of(c.x), 0.3, *CODES
        same(ours.site_read_backward(*arguments), eager_site.site_read_backward(*arguments), c.rounding)


def test_between_two_branches(case):
    c = case
    arguments = c.x, c.y, c.post, c.res, c.weight, c.gate, c.bias, *SETTINGS
    same(ours.write_site_read(*arguments), eager_site.write_site_read(*arguments), 2 * c.rounding)
    same(ours.next_site(*arguments, None), _next_site(*arguments, None), 2 * c.rounding)
    before = c.x, c.y, c.post, c.res, c.state, c.weight, c.gate, c.bias, *c.rows_of(c.state), 0.3, *CODES
    for dstate in (None, c.dstate):
        arguments = dstate, c.du, c.dpost, c.dmix, *before
        wanted = eager_site.write_site_read_backward(*arguments)
        same(ours.write_site_read_backward(*arguments), wanted, 2 * c.rounding)


def test_other_activations_and_rows(seed):
    """Reads without a sigmoid, and 24 logits of a mixture of permutations instead of 16."""
    c = Case(torch.float32, 9, 4, 32)
    weight, bias, dmix = torch.randn(32, 128, device=DEVICE), torch.randn(32, device=DEVICE), torch.randn(9, 24)
    codes = (0, 1, 0.0, 1.0, 0.0)
    arguments = c.x, weight, c.gate, bias, 0.0, 1e-6, *codes
    same(ours.site_read(*arguments), eager_site.site_read(*arguments), 1e-5)
    P, r = eager_site.coefficients(c.x, weight, 1e-6)
    arguments = c.du, c.dpost, dmix.to(DEVICE), c.x, weight, c.gate, bias, P, r, 0.0, *codes
    same(ours.site_read_backward(*arguments), eager_site.site_read_backward(*arguments), 2e-5)


def test_a_token_has_the_same_bits_in_any_batch(dtype, seed):
    c = Case(dtype, 33, 4, 72)
    settings = c.weight, c.gate, c.bias, *SETTINGS
    together = ours.write_site_read(c.x, c.y, c.post, c.res, *settings)
    some = torch.tensor([0, 13, 32], device=DEVICE)
    alone = ours.write_site_read(c.x[some], c.y[some], c.post[some], c.res[some], *settings)
    for a, b in zip(together, alone):
        assert torch.equal(a[some], b)


def test_layouts_and_no_tokens(dtype, seed):
    """Batch dimensions, strides and none at all."""
    c = Case(dtype, 12, 4, 40)
    shaped = ours.site_read(c.x.view(3, 4, 4, 40), c.weight, c.gate, c.bias, *SETTINGS)
    for a, b in zip(shaped, ours.site_read(c.x, c.weight, c.gate, c.bias, *SETTINGS)):
        assert torch.equal(a.flatten(0, 1), b)
    strided = c.x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(ours.read(strided, c.pre), ours.read(c.x, c.pre))
    one = ours.write(c.x[0], c.y[0], c.post[0], c.res[0])
    assert torch.equal(one, ours.write(c.x, c.y, c.post, c.res)[0])
    none = Case(dtype, 0, 4, 40)
    arguments = none.x, none.y, none.post, none.res, none.weight, none.gate, none.bias, *SETTINGS
    for a, b in zip(ours.write_site_read(*arguments), eager_site.write_site_read(*arguments)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert ours.write_backward(none.x, none.x, none.y, none.post, none.res)[3].shape == (0, 4, 4)
    assert ours.read_backward(none.y, none.x, none.pre)[1].shape == (0, 4)
