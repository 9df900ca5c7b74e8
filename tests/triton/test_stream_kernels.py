"""Kernels on the streams against the plain formulas: on a device where there is one, else interpreted.

The formulas themselves are compared with float64 elsewhere; the coefficients are here too, because their products are
made of 16-bit numbers.
"""

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from streammix.ops.eager import birkhoff as eager_birkhoff
from streammix.ops.eager import mixed_site as eager_mixed
from streammix.ops.eager import rows as eager_rows
from streammix.ops.eager import site as eager_site
from streammix.ops.eager import streams as eager_streams
from streammix.ops.operators.site import _next_site
from streammix.ops.triton import _launched, launch
from streammix.ops.triton import launch_rows as rows
from streammix.ops.triton import launch_sites as sites
from streammix.ops.triton import launch_streams as ours

pytestmark = pytest.mark.gpu
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
        assert a.is_contiguous(), i  # as fakes promise to torch.compile
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


def test_streams_in_another_dimension(dtype, seed):
    c = Case(dtype, 6, 4, 40)
    x, dstate = (t.unflatten(0, (2, 3)).movedim(-2, 1).contiguous() for t in (c.x, c.dstate))
    y, du, pre, post, res = (t.unflatten(0, (2, 3)) for t in (c.y, c.du, c.pre, c.post, c.res))
    same([ours.read(x, pre, -3)], [eager_streams.read(x, pre, -3)], c.rounding)
    arguments = du, x, pre, -3
    same(ours.read_backward(*arguments), eager_streams.read_backward(*arguments), c.rounding)
    arguments = x, y, post, res, -3
    same([ours.write(*arguments)], [eager_streams.write(*arguments)], c.rounding)
    same(ours.write_backward(dstate, *arguments), eager_streams.write_backward(dstate, *arguments), c.rounding)
    check_rows(c, x, du, post, res, -3)


def test_streams_that_make_their_own_weights(case):
    c = case
    check_rows(c, c.x, c.du, c.post, c.res, -2)


def check_rows(c, x, du, dpost, dmix, dim):
    n, C = x.shape[dim], x.shape[-1]
    make = lambda *shape: torch.randn(*shape, device=DEVICE)  # noqa: E731
    parameters = 2 * make(n + 2, C) / C**0.5, make(n + 2), make(n, n + 2)
    for tanh, codes in ((True, (0, 0, 0.0, 1.0, 0.0)), (False, CODES)):
        wanted = eager_rows.rows_site_read(x, *parameters, 1e-6, tanh, *codes, dim)
        same(rows.rows_site_read(x, *parameters, 1e-6, tanh, *codes, dim), wanted, max(c.rounding, 1e-5))
        arguments = du, dpost, dmix, x, *parameters, *wanted[3:], tanh, *codes, dim
        wanted = eager_rows.rows_site_read_backward(*arguments)
        same(rows.rows_site_read_backward(*arguments), wanted, 2 * c.rounding)  # dx is rounded as a sum of two


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
        same(sites.site_read(*arguments), eager_site.site_read(*arguments), c.rounding)
        arguments = c.du, c.dpost, c.dmix, c.x, c.weight, gate, c.bias, *c.rows_of(c.x), 0.3, *CODES
        same(sites.site_read_backward(*arguments), eager_site.site_read_backward(*arguments), c.rounding)


def test_between_two_branches(case):
    c = case
    arguments = c.x, c.y, c.post, c.res, c.weight, c.gate, c.bias, *SETTINGS
    same(sites.write_site_read(*arguments), eager_site.write_site_read(*arguments), 2 * c.rounding)
    same(sites.next_site(*arguments, None), _next_site(*arguments, None), 2 * c.rounding)
    before = c.x, c.y, c.post, c.res, c.state, c.weight, c.gate, c.bias, *c.rows_of(c.state), 0.3, *CODES
    for dstate in (None, c.dstate):
        arguments = dstate, c.du, c.dpost, c.dmix, *before
        wanted = eager_site.write_site_read_backward(*arguments)
        same(sites.write_site_read_backward(*arguments), wanted, 2 * c.rounding)


@pytest.mark.parametrize(
    "rule",
    [(0, 0, False, False, 0.0), (0, 0, False, True, 0.0), (5, 2, True, True, 1e-6), (4, 0, False, False, 0.0)],
    ids=["exact", "exact, transposed", "softmax, transposed", "log"],
)
def test_a_site_with_its_matrix(rule, seed):
    for dtype, tokens, n, C in ((torch.float32, 37, 4, 48), (torch.bfloat16, 5, 3, 64), (torch.float16, 70, 5, 16)):
        c = Case(dtype, tokens, n, C)
        arguments = c.x, c.weight, c.gate, c.bias, *SETTINGS, *rule
        same(sites.mixed_site_read(*arguments), eager_mixed.mixed_site_read(*arguments), 2 * c.rounding)
        P, r = c.rows_of(c.x)
        H = eager_mixed.mixed_site_read(*arguments)[2]
        arguments = c.du, c.dpost, c.res, c.x, c.weight, c.gate, c.bias, H, P, r, 0.3, *CODES, *rule
        wanted = eager_mixed.mixed_site_read_backward(*arguments)
        same(sites.mixed_site_read_backward(*arguments), wanted, 2 * c.rounding)
        branch = c.x, c.y, c.post, c.res
        arguments = *branch, c.weight, c.gate, c.bias, *SETTINGS, *rule
        wanted = eager_mixed.write_mixed_site_read(*arguments)
        same(sites.write_mixed_site_read(*arguments), wanted, 2 * c.rounding)
        P, r = c.rows_of(c.state)
        H = eager_mixed.mixed_site_read(c.state, *arguments[4:])[2]
        arguments = *branch, c.state, c.weight, c.gate, c.bias, H, P, r, 0.3, *CODES, *rule
        wanted = eager_mixed.write_mixed_site_read_backward(c.dstate, c.du, c.dpost, c.res, *arguments)
        ours_ = sites.write_mixed_site_read_backward(c.dstate, c.du, c.dpost, c.res, *arguments)
        same(ours_, wanted, 2 * c.rounding)


@pytest.mark.parametrize("rule", [(0, 0, False, False, 0.0), (5, 2, True, True, 1e-6)], ids=["exact", "softmax"])
def test_weights_carried_to_the_next_site(rule, seed):
    for dtype, tokens, n, C in ((torch.float32, 37, 4, 48), (torch.bfloat16, 5, 3, 600), (torch.float16, 9, 5, 16)):
        c = Case(dtype, tokens, n, C)
        branch = c.x, c.y, c.post, c.res, c.pre
        arguments = *branch, c.weight, c.gate, c.bias, *SETTINGS, *rule
        wanted = eager_mixed.write_carried_site(*arguments)
        same(sites.write_carried_site(*arguments), wanted, 2 * c.rounding)
        state, _, pre, post, H, P, r = wanted
        before = *branch, state, c.weight, c.gate, c.bias, H, P, r, 0.3, *CODES, *rule
        for dstate in (None, c.dstate):
            arguments = dstate, c.du, torch.randn_like(pre), torch.randn_like(post), torch.randn_like(H), *before
            wanted = eager_mixed.write_carried_site_backward(*arguments)
            same(sites.write_carried_site_backward(*arguments), wanted, 2 * c.rounding)


def test_few_tokens_in_one_launch(seed):
    """Projections that are left to the tile included; nothing is left from one call to the next."""
    for tokens in (1, 40, 65):
        c = Case(torch.float32, tokens, 4, 1200)
        bias = c.bias.clone()
        bias[8:] = 300 * torch.randn(16, device=DEVICE)
        arguments = c.x, c.y, c.post, c.res, c.weight, c.gate, bias, *SETTINGS, None
        same(sites.next_site(*arguments), _next_site(*arguments), 2e-5)
        again = sites.next_site(*arguments)
        for a, b in zip(sites.next_site(*arguments), again):
            assert torch.equal(a, b)


def test_other_activations_and_rows(seed):
    """Reads without a sigmoid, and 24 logits of a mixture of permutations instead of 16."""
    c = Case(torch.float32, 9, 4, 32)
    weight, bias, dmix = torch.randn(32, 128, device=DEVICE), torch.randn(32, device=DEVICE), torch.randn(9, 24)
    codes = (0, 1, 0.0, 1.0, 0.0)
    arguments = c.x, weight, c.gate, bias, 0.0, 1e-6, *codes
    same(sites.site_read(*arguments), eager_site.site_read(*arguments), 1e-5)
    P, r = eager_site.coefficients(c.x, weight, 1e-6)
    arguments = c.du, c.dpost, dmix.to(DEVICE), c.x, weight, c.gate, bias, P, r, 0.0, *codes
    same(sites.site_read_backward(*arguments), eager_site.site_read_backward(*arguments), 2e-5)


def test_a_token_has_the_same_bits_in_any_batch(dtype, seed):
    c = Case(dtype, 33, 4, 72)
    settings = c.weight, c.gate, c.bias, *SETTINGS
    together = sites.write_site_read(c.x, c.y, c.post, c.res, *settings)
    some = torch.tensor([0, 13, 32], device=DEVICE)
    alone = sites.write_site_read(c.x[some], c.y[some], c.post[some], c.res[some], *settings)
    for a, b in zip(together, alone):
        assert torch.equal(a[some], b)


@pytest.mark.skipif(DEVICE != "cpu", reason="asked of the interpreter")
def test_nothing_is_compiled_anew_for_another_length(monkeypatch, seed):
    """Constants of kernels and options of launches are the same for any number of tokens."""
    for module in (launch, ours, sites):
        monkeypatch.setattr(module, "INTERPRETED", False, raising=False)
    constants, launched = [], GridExecutor.__call__

    def recording(executor, *args, **options):
        constants.append((executor.fn.__name__, options))
        return launched(executor, *args, **options)

    monkeypatch.setattr(GridExecutor, "__call__", recording)
    of_lengths = []
    for tokens in (1, 16, 37):
        constants.clear()
        c = Case(torch.float32, tokens, 4, 16)
        P, r = ours.coefficients(c.x, c.weight, 1e-6)
        ours.coefficients_backward(c.dP, c.x, c.weight, P, r)
        ours.read_backward(ours.read(c.x, c.pre), c.x, c.pre)
        ours.write_backward(c.x, c.x, c.y, c.post, c.res)
        parameters = c.weight, c.gate, c.bias
        sites.next_site(c.x, c.y, c.post, c.res, *parameters, *SETTINGS, None)
        before = c.x, c.y, c.post, c.res, c.state, *parameters, c.res, P, r, 0.3, *CODES, 0, 0, False, False, 0.0
        sites.write_mixed_site_read_backward(c.dstate, c.du, c.dpost, c.res, *before)
        launch.birkhoff_backward(c.res, launch.birkhoff(c.res))
        launch.sinkhorn_backward(c.res, launch.sinkhorn(c.res, 3, 0, True, 0.0), 3, 0, True, 0.0)
        of_lengths.append(list(constants))
    assert of_lengths[0] == of_lengths[1] == of_lengths[2]
    assert len({name for name, _ in constants}) > 10
    assert all(options["enable_fp_fusion"] for _, options in constants)  # not said, it changes in Triton 3.10


def test_layouts_and_no_tokens(dtype, seed):
    """Batch dimensions, strides and none at all."""
    c = Case(dtype, 12, 4, 40)
    shaped = sites.site_read(c.x.view(3, 4, 4, 40), c.weight, c.gate, c.bias, *SETTINGS)
    for a, b in zip(shaped, sites.site_read(c.x, c.weight, c.gate, c.bias, *SETTINGS)):
        assert torch.equal(a.flatten(0, 1), b)
    strided = c.x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(ours.read(strided, c.pre), ours.read(c.x, c.pre))
    one = ours.write(c.x[0], c.y[0], c.post[0], c.res[0])
    assert torch.equal(one, ours.write(c.x, c.y, c.post, c.res)[0])
    none = Case(dtype, 0, 4, 40)
    arguments = none.x, none.y, none.post, none.res, none.weight, none.gate, none.bias, *SETTINGS
    for a, b in zip(sites.write_site_read(*arguments), eager_site.write_site_read(*arguments)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert ours.write_backward(none.x, none.x, none.y, none.post, none.res)[3].shape == (0, 4, 4)
    assert ours.read_backward(none.y, none.x, none.pre)[1].shape == (0, 4)


def test_autocast_reaches_into_nothing(seed):
    """Where more streams than kernels serve fall back to plain formulas, too."""
    c = Case(torch.float32, 6, 9, 16)
    arguments = c.x, c.weight, c.gate, c.bias, *SETTINGS
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        ours_ = _launched("site_read", "launch_sites")(*arguments)
    same(ours_, eager_site.site_read(*arguments), 1e-5)


def test_parameters_with_strides(seed):
    """A gate that is expanded, a bias that is a column."""
    c = Case(torch.float32, 5, 4, 16)
    gate, bias = c.gate[:1].expand(3), torch.randn(24, 2, device=DEVICE)[:, 1]
    arguments = c.x, c.y, c.post, c.res, c.weight, gate, bias, *SETTINGS
    same(sites.write_site_read(*arguments), eager_site.write_site_read(*arguments), 1e-5)
    same(sites.next_site(*arguments, None), _next_site(*arguments, None), 1e-5)
    arguments = c.du, c.dpost, c.dmix, c.x, c.weight, gate, bias, *c.rows_of(c.x), 0.3, *CODES
    same(sites.site_read_backward(*arguments), eager_site.site_read_backward(*arguments), 1e-5)
