"""The operators of a whole site: native against plain, against separate steps, and their derivatives."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import streammix as sm
from streammix.ops.operators.site import ACTIVATION_CODES
from streammix.ops.registry import DISPATCHED, EAGER, operators

native, plain = operators[DISPATCHED], operators[EAGER]
EPS = 1e-6
#: read, write, eps of the reads, multiplier and eps of the writes
CODES = (ACTIVATION_CODES["sigmoid"], ACTIVATION_CODES["twice-sigmoid"], 1e-3, 1.5, 1e-2)
needs_native = pytest.mark.skipif(not any(b.name == "cpu" and b.available for b in sm.backends()), reason="not built")


class Site:
    """Random streams, parameters and gradients of one site."""

    def __init__(self, batch: tuple[int, ...], n: int, C: int, mixing: int, dtype: torch.dtype) -> None:
        wide = torch.promote_types(dtype, torch.float32)
        rows = 2 * n + mixing

        def streams(*shape: int) -> Tensor:
            return torch.randn(*batch, *shape).to(dtype)

        def small(*shape: int) -> Tensor:
            return torch.randn(*batch, *shape).to(wide)

        self.write = (streams(n, C), streams(C), small(n), small(n, n))  # x, y, post, res
        self.x = self.write[0]
        self.weight = (torch.randn(rows, n * C) / (n * C) ** 0.5).to(wide)
        self.parameters = (self.weight, torch.randn(3).to(wide), torch.randn(rows).to(wide))
        # of a size that makes sums over channels about one
        self.dstate, self.du = streams(n, C) / C**0.5, streams(C) / C**0.5
        self.dpost, self.dmix = small(n), small(mixing)
        self.dP = small(rows)


def close(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], rtol: float) -> None:
    """Errors relative to the largest entry: sums of C terms cancel."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        scale = e.abs().max().item() if e.numel() else 0.0
        torch.testing.assert_close(a, e, rtol=0, atol=rtol * max(scale, 1.0))


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("C", [1, 7, 33, 64, 1000])
def test_native_equals_plain(n, C, dtype, seed):
    tol = TOLERANCE[dtype]
    for batch, mixing in itertools.product([(), (0,), (1,), (3,), (2, 13)], [0, n * n]):
        s = Site(batch, n, C, mixing, dtype)
        close(native.coefficients(s.x, s.weight, EPS), plain.coefficients(s.x, s.weight, EPS), tol)
        arguments = (*s.parameters, 0.5, EPS, *CODES)
        read = plain.site_read(s.x, *arguments)
        close(native.site_read(s.x, *arguments), read, tol)
        state, *next_read = plain.write_site_read(*s.write, *arguments)
        close(native.write_site_read(*s.write, *arguments), (state, *next_read), tol)

        backward = (s.dP, s.x, s.weight, *read[3:])
        close(native.coefficients_backward(*backward), plain.coefficients_backward(*backward), tol)
        backward = (s.du, s.dpost, s.dmix, s.x, *s.parameters, *read[3:], 0.5, *CODES)
        close(native.site_read_backward(*backward), plain.site_read_backward(*backward), tol)
        for dstate in (s.dstate, None):
            backward = (dstate, s.du, s.dpost, s.dmix, *s.write, state, *s.parameters, *next_read[3:], 0.5, *CODES)
            close(native.write_site_read_backward(*backward), plain.write_site_read_backward(*backward), tol)


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_one_pass_gives_the_same_bits_as_two(dtype, seed):
    s = Site((37,), 4, 100, 16, dtype)
    arguments = (*s.parameters, 0.0, EPS, *CODES)
    state = native.write(*s.write, -2)
    fused = native.write_site_read(*s.write, *arguments)
    for a, b in zip(fused, (state, *native.site_read(state, *arguments)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_token_does_not_depend_on_its_batch(dtype, seed):
    s = Site((41,), 4, 70, 16, dtype)
    arguments = (*s.parameters, 0.0, EPS, *CODES)
    whole = native.write_site_read(*s.write, *arguments)
    for begin, end in itertools.combinations(range(42), 2):
        part = native.write_site_read(*(t[begin:end] for t in s.write), *arguments)
        exact = end - begin >= 16  # fewer tokens are summed in another order
        for a, b in zip(part, whole, strict=True):
            torch.testing.assert_close(a, b[begin:end], rtol=0, atol=0 if exact else 4 * TOLERANCE[dtype])


@needs_native
def test_threads_change_parameter_gradients_by_rounding_only(seed):
    s = Site((512,), 4, 256, 16, torch.float32)
    *_, P, r = native.site_read(s.x, *s.parameters, 0.0, EPS, *CODES)
    arguments = (s.du, s.dpost, s.dmix, s.x, *s.parameters, P, r, 0.0, *CODES)
    one = native.site_read_backward(*arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two, again = native.site_read_backward(*arguments), native.site_read_backward(*arguments)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], two[0])
    close(two, one, 1e-5)
    assert all(torch.equal(a, b) for a, b in zip(two, again))


@needs_native
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_token_poisons_itself_only(bad, seed):
    s = Site((20,), 4, 33, 16, torch.float32)
    s.x[7, 2, 5] = bad
    outputs = native.site_read(s.x, *s.parameters, 0.0, EPS, *CODES)
    assert outputs[0][7].isnan().any()
    for part in outputs:
        assert part[:7].isfinite().all()
        assert part[8:].isfinite().all()


@needs_native
@pytest.mark.parametrize("strides", ["transposed", "expanded", "offset"])
def test_strides(strides, seed):
    s = Site((6,), 4, 9, 16, torch.float32)
    x = {
        "transposed": s.x.mT.contiguous().mT,
        "expanded": s.x[:1].expand(6, 4, 9),
        "offset": torch.cat([s.x, s.x], -1)[..., 3:12],
    }[strides]
    arguments = (*s.parameters, 0.0, EPS, *CODES)
    for a, b in zip(native.site_read(x, *arguments), native.site_read(x.contiguous(), *arguments)):
        assert torch.equal(a, b)
    assert torch.equal(native.write(x, *s.write[1:], -2), native.write(x.contiguous(), *s.write[1:], -2))


@pytest.mark.parametrize("ops", [native, plain], ids=["native", "plain"])
@pytest.mark.parametrize("gates", [2, 3])
def test_derivatives(ops, gates, seed):
    s = Site((2,), 2, 3, 4, torch.float64)
    weight, gate, bias = s.parameters
    site = (weight, gate[:gates], bias)

    def read(x, *parameters):
        return ops.site_read(x, *parameters, 0.7, 1e-2, *CODES)

    def write_read(*tensors):
        return ops.write_site_read(*tensors, 0.7, 1e-2, *CODES)

    def project(x, weight):
        return ops.coefficients(x, weight, 1e-2)

    for function, inputs in ((project, (s.x, weight)), (read, (s.x, *site)), (write_read, (*s.write, *site))):
        inputs = tuple(t.clone().requires_grad_() for t in inputs)
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", ["eager", "auto"])
def test_autocast_does_not_reach_into_operators(name, seed):
    s = Site((5,), 4, 64, 16, torch.float32)
    with sm.backend(name):
        expected = sm.write(*s.write), sm.read(s.x, s.write[2])
        with torch.autocast("cpu", torch.bfloat16):
            actual = sm.write(*s.write), sm.read(s.x, s.write[2])
    assert all(torch.equal(a, b) for a, b in zip(actual, expected))


@needs_native
def test_wrong_shapes_are_named(seed):
    s = Site((5,), 4, 8, 16, torch.float32)
    x, y, post, res = s.write
    for arguments, name in (
        ((x, y[:4], post, res), "y"),
        ((x, y, post[:, :3], res), "post"),
        ((x, y, post, res[0]), "res"),
    ):
        with pytest.raises(RuntimeError, match=f"streammix: {name} does not match"):
            native.write(*arguments, -2)
    with pytest.raises(RuntimeError, match="weight is"):
        native.site_read(x, s.weight[:7], *s.parameters[1:], 0.0, EPS, *CODES)
