"""read and write against einsum in float64, on odd shapes and in every dtype."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import streammix as sm

BACKENDS = [b.name for b in sm.backends() if b.available]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request):
    with sm.backend(request.param):
        yield request.param


def tensors(batch, n, C, dtype=torch.float32):
    x, y = torch.randn(*batch, n, C, dtype=dtype), torch.randn(*batch, C, dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    pre, post = torch.randn(*batch, n, dtype=wide), torch.randn(*batch, n, dtype=wide)
    return x, y, pre, post, torch.randn(*batch, n, n, dtype=wide)


@pytest.mark.parametrize("batch", [(), (0,), (1,), (3,), (2, 5)])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("C", [1, 7, 33, 1000])
def test_against_einsum(batch, n, C, seed):
    x, y, pre, post, res = tensors(batch, n, C)
    wide = [t.double() for t in (x, y, pre, post, res)]
    u = torch.einsum("...n,...nc->...c", wide[2], wide[0])
    out = torch.einsum("...ij,...jc->...ic", wide[4], wide[0]) + wide[3].unsqueeze(-1) * wide[1].unsqueeze(-2)
    torch.testing.assert_close(sm.read(x, pre).double(), u, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sm.write(x, y, post, res).double(), out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_streams_are_summed_in_float32(dtype, seed):
    x, y, pre, post, res = tensors((64,), 4, 32, dtype)
    assert sm.read(x, pre).dtype == dtype
    torch.testing.assert_close(sm.read(x, pre), sm.read(x.float(), pre).to(dtype), rtol=0, atol=0)
    out = sm.write(x, y, post, res)
    assert out.dtype == dtype
    torch.testing.assert_close(out, sm.write(x.float(), y.float(), post, res).to(dtype), rtol=0, atol=0)


def test_gradients_have_their_inputs_dtypes(seed):
    x, y, pre, post, res = tensors((5,), 4, 8, torch.bfloat16)
    inputs = [t.requires_grad_() for t in (x, y, post, res)]
    grads = torch.autograd.grad(sm.write(*inputs).float().square().sum(), inputs)
    assert [g.dtype for g in grads] == [t.dtype for t in inputs]
    inputs = [t.requires_grad_() for t in (x, pre)]
    grads = torch.autograd.grad(sm.read(*inputs).float().square().sum(), inputs)
    assert [g.dtype for g in grads] == [t.dtype for t in inputs]


@pytest.mark.parametrize("n", [1, 3])
def test_gradcheck(n, seed):
    x, y, pre, post, res = (t.requires_grad_() for t in tensors((2,), n, 3, torch.float64))
    assert gradcheck(sm.read, (x, pre))
    assert gradgradcheck(sm.read, (x, pre))
    assert gradcheck(sm.write, (x, y, post, res))
    assert gradgradcheck(sm.write, (x, y, post, res))


def test_static_coefficients_broadcast(seed):
    x, y, *_ = tensors((2, 5), 4, 8)
    pre, post, res = torch.randn(4), torch.randn(4), torch.randn(4, 4, requires_grad=True)
    expected = torch.einsum("ij,abjc->abic", res, x) + post.unsqueeze(-1) * y.unsqueeze(-2)
    out = sm.write(x, y, post, res)
    torch.testing.assert_close(out, expected)
    assert torch.autograd.grad(out.sum(), res)[0].shape == (4, 4)
    torch.testing.assert_close(sm.read(x, pre), torch.einsum("n,abnc->abc", pre, x))


def test_orientation():
    """Row i of H_res makes output stream i."""
    x = torch.tensor([[1.0], [10.0]])
    res = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert sm.write(x, torch.zeros(1), torch.zeros(2), res).flatten().tolist() == [10.0, 5.5]


def test_strided_streams(seed):
    x, y, pre, post, res = tensors((6,), 4, 8)
    strided = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    torch.testing.assert_close(sm.read(strided, pre), sm.read(x, pre))
    torch.testing.assert_close(sm.write(strided, y, post, res.mT.contiguous().mT), sm.write(x, y, post, res))
