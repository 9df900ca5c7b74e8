"""dtypes, autocast and errors of the functions on tensors."""

import pytest
import torch
from families import marginal_error

import streammix as sm

PROJECTIONS = [sm.birkhoff, sm.sinkhorn]


@pytest.mark.parametrize("project", PROJECTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_the_inputs(project, dtype, seed):
    R = torch.randn(100, 4, 4).to(dtype).requires_grad_()
    T = project(R)
    assert T.dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(T, project(R.to(wide)).to(dtype))
    (g,) = torch.autograd.grad(T.square().sum(), R)
    assert g.dtype == dtype


@pytest.mark.parametrize("project", PROJECTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_keeps_matrices_in_float32(project, dtype, seed):
    R = torch.randn(100, 4, 4).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        T = project(R)
    assert T.dtype == torch.float32
    assert marginal_error(T).max() < 5e-2 if project is sm.sinkhorn else 2e-6
    (g,) = torch.autograd.grad(T.square().sum(), R)
    assert g.dtype == dtype


@pytest.mark.refusal
@pytest.mark.parametrize("project", PROJECTIONS)
@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(4, 3), ValueError, r"logits: got shape \(4, 3\); accepted: \(\.\.\., n, n\)"),
        (torch.zeros(4), ValueError, r"logits: got shape \(4,\)"),
        (torch.zeros(2, 0, 0), ValueError, r"n >= 1"),
        (
            torch.zeros(4, 4, dtype=torch.int64),
            TypeError,
            r"logits: got dtype torch.int64; accepted: float16",
        ),
        (torch.zeros(4, 4, dtype=torch.complex64), TypeError, r"complex64"),
        ([[1.0]], TypeError, r"logits: got list; accepted: a floating point tensor"),
    ],
)
def test_bad_logits(project, logits, error, message):
    with pytest.raises(error, match=message):
        project(logits)


@pytest.mark.refusal
def test_bad_options():
    R = torch.zeros(4, 4)
    with pytest.raises(ValueError, match=r"tol: got -1"):
        sm.birkhoff(R, tol=-1)
    with pytest.raises(ValueError, match=r"tol: got nan"):
        sm.birkhoff(R, tol=float("nan"))
    with pytest.raises(ValueError, match=r"rounds: got 0; accepted: integers >= 1"):
        sm.sinkhorn(R, rounds=0)
    with pytest.raises(ValueError, match=r"'mch'; accepted: mhc, deepseek-v4"):
        sm.sinkhorn(R, recipe="mch")


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sm.read(torch.zeros(5, 4, 8), torch.zeros(5, 3)), r"pre: got shape \(5, 3\).*\(5, 4\)"),
        (lambda: sm.read(torch.zeros(5, 4, 8), torch.zeros(2, 5, 4)), r"pre: got shape \(2, 5, 4\)"),
        (lambda: sm.read(torch.zeros(8), torch.zeros(4)), r"x: got shape \(8,\)"),
        (
            lambda: sm.write(torch.zeros(5, 4, 8), torch.zeros(5, 7), torch.zeros(5, 4), torch.zeros(5, 4, 4)),
            r"y: got shape \(5, 7\).*\(5, 8\)",
        ),
        (
            lambda: sm.write(torch.zeros(5, 4, 8), torch.zeros(5, 8), torch.zeros(5, 4), torch.zeros(5, 4)),
            r"res: got shape \(5, 4\).*\(5, 4, 4\)",
        ),
        (lambda: sm.expand(torch.zeros(()), 4), r"x: got a scalar"),
        (lambda: sm.expand(torch.zeros(3), 0), r"streams: got 0; accepted: integers >= 1"),
    ],
)
def test_bad_streams(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match=r"x: got dtype torch.int64"):
        sm.read(torch.zeros(4, 8, dtype=torch.int64), torch.zeros(4))


def test_meta_device():
    R = torch.zeros(3, 4, 4, device="meta")
    assert sm.birkhoff(R).shape == (3, 4, 4)
    assert sm.sinkhorn(R).device.type == "meta"


def test_expand_copies():
    x = torch.randn(2, 3, 5)
    streams = sm.expand(x, 4)
    assert streams.shape == (2, 3, 4, 5)
    streams[..., 0, :] = 0
    assert torch.equal(streams[..., 1, :], x)


@pytest.mark.refusal
@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.float8_e4m3fn), r"got dtype torch\.float8_e4m3fn; accepted: float16"),
        (lambda t: t.to_sparse(), r"got a tensor of layout torch\.sparse_coo; accepted: dense tensors"),
        (lambda t: t.flatten(0, -2).to_sparse_csr(), r"layout torch\.sparse_csr"),
        (lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged), r"layout torch\.jagged"),
    ],
)
def test_other_kinds_of_tensor_are_refused(change, message, backend):
    logits, x, pre = torch.randn(4, 4), torch.randn(4, 8), torch.randn(4)
    with sm.backend(backend):
        for call in (sm.birkhoff, sm.sinkhorn, lambda t: sm.read(t, pre), lambda t: sm.manifolds.Birkhoff(4)(t)):
            tensor = x if call is not sm.birkhoff and call is not sm.sinkhorn else logits
            with pytest.raises(TypeError, match=message):
                call(change(tensor))


@pytest.mark.refusal
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_sparse_tensors_are_refused_wherever_streams_pass(backend):
    model = sm.Stack([torch.nn.Identity()], 8)
    x, state = torch.randn(3, 8).to_sparse(), torch.randn(3, 4, 8).to_sparse()
    dense, post, res = torch.randn(3, 4, 8), torch.randn(3, 4), torch.randn(3, 4, 4)
    with sm.backend(backend):
        for name, call in (
            ("logits", lambda: sm.birkhoff(torch.eye(4).to_sparse())),
            ("x", lambda: sm.expand(x, 4)),
            ("x", lambda: model(x)),
            ("x", lambda: model[0](state)),
            ("x", lambda: model.end(state)),
            ("pre", lambda: sm.read(dense, post.to_sparse())),
            ("y", lambda: sm.write(dense, x, post, res)),
            ("post", lambda: sm.write(dense, x.to_dense(), post.to_sparse(), res)),
            ("res", lambda: sm.write(dense, x.to_dense(), post, res.to_sparse())),
        ):
            with pytest.raises(TypeError, match=rf"{name}: got a tensor of layout torch\.sparse_coo; accepted: dense"):
                call()
