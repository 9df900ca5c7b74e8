"""The projection's guarantees: exact marginals, the right point, the right derivatives, for every input."""

import itertools

import pytest
import torch
from families import FAMILIES, marginal_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import streammix as sm

BACKENDS = [b.name for b in sm.backends() if b.available]


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request):
    with sm.backend(request.param):
        yield request.param


@pytest.mark.parametrize("family", FAMILIES)
def test_marginals_n4(family, seed):
    R = FAMILIES[family](10_000, 4)
    T = sm.birkhoff(R)
    assert marginal_error(T).max() <= 2e-6
    assert T.min() >= 0


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 16, 33])
@pytest.mark.parametrize("family", FAMILIES)
def test_marginals_any_n(family, n, seed):
    T = sm.birkhoff(FAMILIES[family](300, n))
    assert marginal_error(T).max() <= 1e-6 * n


@pytest.mark.parametrize("n", [2, 4, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_marginals_float64(family, n, seed):
    T = sm.birkhoff(FAMILIES[family](500, n).double())
    assert marginal_error(T).max() <= 2e-15 * n


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_is_the_limit_of_sinkhorn(n, seed):
    R = torch.randn(200, n, n, dtype=torch.float64)
    torch.testing.assert_close(sm.birkhoff(R), sm.sinkhorn(R, rounds=2000, recipe="mhc"), rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_optimality(scale, seed):
    """log T - R is a sum of a row and a column potential: every 2x2 minor of it vanishes."""
    R = scale * torch.randn(200, 5, 5, dtype=torch.float64)
    D = sm.birkhoff(R).log() - R
    minors = D[:, :-1, :-1] - D[:, 1:, :-1] - D[:, :-1, 1:] + D[:, 1:, 1:]
    assert minors.abs().max() <= 1e-11 * scale


def test_large_logits_give_the_best_permutation(seed):
    R = 1e4 * torch.randn(200, 4, 4)
    permutations = torch.stack([torch.eye(4)[list(p)] for p in itertools.permutations(range(4))])
    best = permutations[(R.unsqueeze(1) * permutations).sum((-1, -2)).argmax(-1)]
    close = (sm.birkhoff(R) - best).abs().amax((-1, -2)) < 1e-3
    assert close.float().mean() > 0.95  # the others have two nearly equal permutations


@pytest.mark.parametrize("family", ["N(0,1)", "N(0,10^2)", "Unif(-10,10)"])
def test_float32_against_float64(family, seed):
    R = FAMILIES[family](10_000, 4)
    G = torch.randn_like(R)
    results = []
    for dtype in (torch.float32, torch.float64):
        logits = R.to(dtype).requires_grad_()
        T = sm.birkhoff(logits)
        (grad,) = torch.autograd.grad(T, logits, G.to(dtype))
        results.append((T.double(), grad.double()))
    (T32, g32), (T64, g64) = results
    assert (T32 - T64).abs().max() <= 2e-6
    assert (g32 - g64).abs().max() <= 5e-6


def test_gradient_near_a_vertex_is_relatively_accurate(seed):
    """Gradients of size 1e-5 keep correct digits that G - T G, computed with cancellation, would lose."""
    T = sm.birkhoff(-12 * (1 - torch.eye(4, dtype=torch.float64)) + torch.randn(500, 4, 4))
    G = torch.randn_like(T)
    narrow = sm.ops.operators_for(T, T.shape[-1]).birkhoff_backward(G.float(), T.float())
    wide = sm.ops.operators_for(T, T.shape[-1]).birkhoff_backward(G, T)
    relative = (narrow - wide).abs().amax((-1, -2)) / wide.abs().amax((-1, -2))
    assert relative.max() <= 2e-3


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_gradcheck(n, scale, seed):
    R = (scale * torch.randn(3, n, n, dtype=torch.float64)).requires_grad_()
    assert gradcheck(sm.birkhoff, (R,))
    assert gradgradcheck(sm.birkhoff, (R,))


def test_gradient_has_zero_marginals(seed):
    R = (10 * torch.randn(1000, 4, 4)).requires_grad_()
    T = sm.birkhoff(R)
    (g,) = torch.autograd.grad(T, R, torch.randn_like(R))
    assert g.sum(-1).abs().max() <= 1e-6
    assert g.sum(-2).abs().max() <= 1e-6


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 6),
    data=st.data(),
    shift=st.floats(-50, 50),
)
def test_invariances(n, data, shift):
    """Constants added to rows and columns change nothing; transposing and permuting commute with the projection."""
    entries = st.floats(-100, 100)
    R = torch.tensor(data.draw(st.lists(entries, min_size=n * n, max_size=n * n)), dtype=torch.float64).view(n, n)
    T = sm.birkhoff(R)
    rows = shift * torch.arange(n).unsqueeze(-1)
    torch.testing.assert_close(sm.birkhoff(R + rows - shift), T, rtol=0, atol=1e-9)
    torch.testing.assert_close(sm.birkhoff(R.mT), T.mT, rtol=0, atol=1e-9)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    torch.testing.assert_close(sm.birkhoff(R[order]), T[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [2, 4, 9])
@pytest.mark.parametrize("bad", ["nan", "inf", "masked row", "all masked", "one entry on no permutation"])
def test_matrices_without_a_solution_are_nan_and_no_others(bad, n, seed):
    R = torch.randn(37, n, n)
    clean = sm.birkhoff(R)
    poisoned = R.clone()
    match bad:
        case "masked row":
            poisoned[5, 1] = -torch.inf
        case "all masked":
            poisoned[5] = -torch.inf
        case "one entry on no permutation":  # upper triangular: only the diagonal lies on a permutation
            poisoned[5] = poisoned[5].masked_fill(torch.ones(n, n).tril(-1).bool(), -torch.inf)
        case _:
            poisoned[5, 1, n // 2] = float(bad)
    T = sm.birkhoff(poisoned)
    assert T[5].isnan().all()
    others = torch.arange(37) != 5
    assert torch.equal(T[others], clean[others])
    logits = poisoned.requires_grad_()
    (g,) = torch.autograd.grad(sm.birkhoff(logits).sum(), logits)
    assert g[5].isnan().all()
    assert g[others].isfinite().all()


def test_result_does_not_depend_on_the_batch(seed):
    R = torch.cat([FAMILIES[name](8, 4) for name in FAMILIES])
    together = sm.birkhoff(R)
    alone = torch.stack([sm.birkhoff(r) for r in R])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    assert torch.equal(together, sm.birkhoff(R))


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4), (2, 0, 3, 3), (3, 1, 2, 5, 5)])
def test_shapes(shape, seed):
    R = torch.randn(shape, requires_grad=True)
    T = sm.birkhoff(R)
    assert T.shape == R.shape
    T.sum().backward()
    assert R.grad.shape == R.shape


def test_strides(seed):
    R = torch.randn(4, 6, 4)
    torch.testing.assert_close(sm.birkhoff(R.permute(1, 2, 0)), sm.birkhoff(R.permute(1, 2, 0).contiguous()))
    every_other = torch.randn(5, 8, 8)[:, ::2, ::2]
    assert torch.equal(sm.birkhoff(every_other), sm.birkhoff(every_other.contiguous()))
    expanded = torch.randn(4, 4).expand(7, 4, 4)
    assert torch.equal(sm.birkhoff(expanded), sm.birkhoff(expanded.contiguous()))


def test_tolerance_is_honoured(seed):
    R = 3 * torch.randn(2000, 4, 4)
    loose, tight = sm.birkhoff(R, tol=1e-1), sm.birkhoff(R, tol=1e-30)
    assert marginal_error(tight).max() <= 2e-6
    assert 1e-6 < marginal_error(loose).max() <= 1e-1


@pytest.mark.parametrize("name", ["auto", "eager"])
@pytest.mark.parametrize("tol", [1e-2, 0.1, 0.5])
@pytest.mark.parametrize("n", [3, 4, 8])
def test_rows_sum_to_one_whatever_the_tolerance(n, tol, name, seed):
    with sm.backend(name):
        T = sm.birkhoff(3 * torch.randn(500, n, n), tol=tol)
    assert (T.double().sum(-1) - 1).abs().max() <= 1e-6


@pytest.mark.parametrize("name", ["auto", "eager"])
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("n", [2, 3, 4, 7, 11])
def test_a_loose_tolerance_is_a_bound_all_the_same(n, tol, name, seed):
    """Rows sum to one whatever the tolerance, by the pass that ends it, and columns are within it."""
    R = 5 * torch.randn(500, n, n)
    with sm.backend(name):
        T = sm.birkhoff(R, tol=tol)
    assert (T.sum(-1) - 1).abs().max() <= 4e-7 * n
    assert (T.sum(-2) - 1).abs().sum(-1).max() <= tol + 1e-6 * n
    assert (T >= 0).all()
