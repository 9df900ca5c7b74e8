"""Sites whose streams make their own weights: native against plain, both against the formula, and derivatives."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import streammix as sm
from streammix.ops.operators.site import ACTIVATION_CODES
from streammix.ops.registry import DISPATCHED, EAGER, operators

native, plain = operators[DISPATCHED], operators[EAGER]
needs_native = pytest.mark.skipif(not any(b.name == "cpu" and b.available for b in sm.backends()), reason="not built")
EPS = 1e-6
#: read, write, eps of the reads, multiplier and eps of the writes
CODES = (ACTIVATION_CODES["sigmoid"], ACTIVATION_CODES["twice-sigmoid"], 1e-3, 1.5, 1e-2)
LINEAR = (0, 0, 0.0, 1.0, 0.0)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2, torch.float16: 3e-3}
#: leading dimensions, and those of tokens between the streams and the channels
SHAPES = [((3,), ()), ((40,), ()), ((2,), (19,)), ((1, 2), (3, 1)), ((0,), (4,)), ((2,), (0,)), ((), (35,))]


def inputs(lead, tokens, n, C, dtype=torch.float32):
    """x (*lead, n, *tokens, C), weight, scale, bias, and dim."""
    wide = torch.promote_types(dtype, torch.float32)
    x = torch.randn(*lead, n, *tokens, C).to(dtype)
    weight, scale, bias = torch.randn(n + 2, C) / C**0.5, torch.randn(n + 2), torch.randn(n, n + 2)
    return x, *(t.to(wide) for t in (weight, scale, bias)), -2 - len(tokens)


def by_formula(x, weight, scale, bias, tanh, dim):
    """u, post and mix, token by token and stream by stream in float64; sigmoids as in CODES."""
    x = x.double().movedim(dim, -2)
    flat, n = x.flatten(0, -3), x.shape[-2]
    u, post, mix = [], [], []
    for token in flat:
        m = []
        for j in range(n):
            z = weight.double() @ token[j] / (token[j].square().mean() + EPS).sqrt()
            m.append(scale.double() * (z.tanh() if tanh else z) + bias[j].double())
        made = torch.stack(m)
        u.append(sum((made[j, 0].sigmoid() + 1e-3) * token[j] for j in range(n)))
        post.append(1.5 * 2 * made[:, 1].sigmoid() + 1e-2)
        mix.append(made[:, 2:])
    batch = x.shape[:-2]
    return [torch.stack(values).unflatten(0, batch) for values in (u, post, mix)]


def close(actual, expected, tolerance):
    """Errors relative to the largest entry: sums of C terms cancel."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert a.is_contiguous()
        largest = e.abs().max().item() if e.numel() else 0.0
        torch.testing.assert_close(a, e, rtol=0, atol=tolerance * max(largest, 1.0))


@pytest.mark.parametrize("tanh", [True, False])
@pytest.mark.parametrize("ops", [native, plain], ids=["dispatched", "eager"])
def test_the_formula(ops, tanh, seed):
    for lead, tokens in ((3,), ()), ((2,), (5,)):
        x, *parameters, dim = inputs(lead, tokens, 3, 7, torch.float64)
        made = ops.rows_site_read(x, *parameters, EPS, tanh, *CODES, dim)[:3]
        torch.testing.assert_close(list(made), by_formula(x, *parameters, tanh, dim), rtol=1e-12, atol=1e-12)


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("lead", "tokens"), SHAPES)
@pytest.mark.parametrize(("n", "C"), [(1, 1), (3, 7), (4, 33), (4, 64), (5, 1000)])
def test_native_equals_plain(lead, tokens, n, C, dtype, seed):
    x, *parameters, dim = inputs(lead, tokens, n, C, dtype)
    for tanh, codes in ((True, LINEAR), (False, CODES)):
        made = plain.rows_site_read(x, *parameters, EPS, tanh, *codes, dim)
        close(native.rows_site_read(x, *parameters, EPS, tanh, *codes, dim), made, TOLERANCE[dtype])
        u, post, mix, P, r = made
        grads = torch.randn_like(u) / C**0.5, torch.randn_like(post), torch.randn_like(mix)
        arguments = (*grads, x, *parameters, P, r, tanh, *codes, dim)
        expected = plain.rows_site_read_backward(*arguments)
        sums = 8.0 if dtype == torch.float32 else 1.0  # of gradients of parameters, over all tokens
        close(native.rows_site_read_backward(*arguments), expected, sums * TOLERANCE[dtype])


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_of_any_size(dtype):
    """To a few units in the last place: near zero, where it changes its formula, and where it is one."""
    size = torch.cat([torch.logspace(-30, 2, 400, dtype=dtype), torch.linspace(0.4, 0.6, 101, dtype=dtype)])
    wanted = torch.cat([size, -size])
    # One channel of one stream, whose P is the sign of x times the weight.
    x, scale, bias = wanted.sign()[:, None, None], torch.ones(3, dtype=dtype), torch.zeros(1, 3, dtype=dtype)
    for place, value in enumerate(size):
        weight = value * torch.ones(3, 1, dtype=dtype)
        mix = native.rows_site_read(x[[place, place - len(size)]], weight, scale, bias, 0.0, True, *LINEAR, -2)[2]
        exact = torch.stack([value, -value]).double().tanh().to(dtype)
        torch.testing.assert_close(mix.flatten(), exact, rtol=8 * torch.finfo(dtype).eps, atol=0)


def test_not_finite_numbers_stay_with_their_token(seed):
    x, *parameters, dim = inputs((40,), (), 4, 16)
    x[7, 2, 3], x[20, 1, 5] = float("nan"), float("inf")
    for value in native.rows_site_read(x, *parameters, EPS, True, *LINEAR, dim)[:3]:
        finite = value.flatten(1).isfinite().all(-1)
        assert (~finite).nonzero().flatten().tolist() in ([7], [7, 20])


@pytest.mark.parametrize("ops", [native, plain], ids=["dispatched", "eager"])
@pytest.mark.parametrize("tanh", [True, False])
def test_derivatives(ops, tanh, seed):
    for lead, tokens in ((2,), ()), ((1,), (2,)):
        x, *parameters, dim = inputs(lead, tokens, 2, 3, torch.float64)
        leaves = [t.requires_grad_() for t in (x, *parameters)]

        def site(*tensors, dim=dim):
            return ops.rows_site_read(*tensors, EPS, tanh, *CODES, dim)[:3]

        assert gradcheck(site, leaves)
        assert gradgradcheck(site, leaves)


def test_another_dimension_of_streams_is_the_same_site(seed):
    x, *parameters, dim = inputs((2,), (21,), 4, 40)
    moved = x.movedim(dim, -2).contiguous()
    here = native.rows_site_read(x, *parameters, EPS, True, *CODES, dim)
    there = native.rows_site_read(moved, *parameters, EPS, True, *CODES, -2)
    assert all(map(torch.equal, here, there))
    grads = [torch.randn_like(t) for t in here[:3]]
    ours = native.rows_site_read_backward(*grads, x, *parameters, *here[3:], True, *CODES, dim)
    theirs = native.rows_site_read_backward(*grads, moved, *parameters, *there[3:], True, *CODES, -2)
    assert torch.equal(ours[0], theirs[0].movedim(-2, dim))
    close(ours[1:], theirs[1:], 1e-5)


@pytest.mark.parametrize(("dtype", "namespace"), [(torch.float32, DISPATCHED), (torch.float64, EAGER)])
def test_opcheck_of_another_dimension(dtype, namespace, seed):
    x, *parameters, dim = inputs((2,), (3,), 4, 5, dtype)
    leaves = [t.requires_grad_() for t in (x, *parameters)]
    op = getattr(torch.ops, namespace).rows_site_read.default
    torch.library.opcheck(op, (*leaves, EPS, True, *CODES, dim))


@needs_native
def test_the_native_operator_refuses_parameters_that_do_not_fit():
    x, weight, scale, bias, dim = inputs((2,), (), 4, 8)
    with pytest.raises(RuntimeError, match=r"weight is \(n \+ 2, C\), scale \(n \+ 2\), bias \(n, n \+ 2\)"):
        torch.ops.streammix.rows_site_read(x, weight[1:], scale, bias, EPS, True, *CODES, dim)
    with pytest.raises(RuntimeError, match="parameters are float32"):
        torch.ops.streammix.rows_site_read(x, weight.double(), scale, bias, EPS, True, *CODES, dim)
