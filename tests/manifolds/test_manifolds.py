"""Every manifold keeps what it declares, for any logits."""

import contextlib
import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import streammix as sm

OPTIONS = {
    "sinkhorn": [{"recipe": recipe} for recipe in sm.ops.sinkhorn_rules.RECIPES],
    "permutations": [{}, {"count": 2}],
    "kronecker": [{"by": by} for by in ("permutations", "birkhoff", "orthostochastic", "closed")],
    "orthostochastic": [{"s": 1}, {"s": 2}, {"s": 3}],
    "transportation": [
        *({"chart": c, "scaled": s} for c in ("sequential", "recursive") for s in (False, True)),
        {"minorised": True},
    ],
    "circulant": [{}, {"sites": 24}],
    "contracted": [{}, {"gamma": 0.5, "by": "permutations"}, {"gamma": 1.0}],
    "one-sided": [{"sums": "rows"}, {"sums": "columns"}],
    "exponential": [
        {},
        {"dt": 0.5, "learn_dt": True},
        *({"generator": kind} for kind in ("conservative", "psd", "diagonal", "conservative-diagonal")),
    ],
    "unit-diagonal": [{}, {"bound": 2.0}, {"static": True}],
    "stiefel": [{}, {"iterations": 2}],
    "grassmann": [{}, {"rank": 1}],
}


def all_manifolds():
    for n in (1, 2, 3, 4, 5, 6, 8):
        for name in sm.manifolds.names():
            for options in OPTIONS.get(name, [{}]):
                with contextlib.suppress(ValueError):  # an n that it does not take: see test_arguments.py
                    yield sm.manifolds.get(name, n, **options)


def label(manifold):
    return f"{type(manifold).__name__}({manifold.extra_repr()})".replace(" ", "")


MANIFOLDS = list(all_manifolds())
OF_FOUR = [m for m in MANIFOLDS if m.streams == 4]
SMALL = [m for m in MANIFOLDS if m.streams == 3 or isinstance(m, sm.manifolds.Quaternion)]


def learns(manifold):
    """Whether the set has more than one matrix for its logits to choose from."""
    if manifold.streams == 1:
        return isinstance(manifold, sm.manifolds.Unconstrained)
    return manifold.num_logits > 0


def test_every_manifold_is_here():
    assert {name.replace("-", "") for name in sm.manifolds.names()} == {type(m).__name__.lower() for m in OF_FOUR}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=label)
def test_guarantees_hold(manifold, scale, dtype, seed):
    n = manifold.streams
    H = manifold(scale * torch.randn(100, manifold.num_logits, dtype=dtype))
    assert H.shape == (100, n, n)
    assert H.dtype == dtype
    assert manifold.contains(H, atol=4e-7 * n if not manifold.guarantees.orthogonal else 2e-6).all()


@st.composite
def batches(draw, num_logits):
    """Logits out of a few values each, so that ties, zeros and extremes meet; some stored in half precision."""
    palette = draw(st.lists(st.floats(-1e4, 1e4, width=32) | st.sampled_from([-1.0, 0.0, 1e4]), min_size=1, max_size=5))
    shape = draw(st.sampled_from([(), (3,), (2, 0), (2, 1, 3)]))
    pick = torch.randint(
        len(palette), (*shape, num_logits), generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    )
    logits = torch.tensor(palette, dtype=torch.float64)[pick]
    stored = draw(st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]))
    return logits.to(stored).to(draw(st.sampled_from([torch.float32, torch.float64])))


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=label)
def test_no_logits_break_the_guarantees(manifold):
    n = manifold.streams

    @settings(max_examples=10, deadline=None, derandomize=True)
    @given(batches(manifold.num_logits))
    def attempt(logits):
        H = manifold(logits)
        assert H.shape == (*logits.shape[:-1], n, n)
        assert H.dtype == logits.dtype
        assert manifold.contains(H, atol=2e-6 if manifold.guarantees.orthogonal else 4e-7 * n).all()

    attempt()


def check_sums(manifold, H):
    n, promised = manifold.streams, manifold.guarantees
    if promised.rows:
        assert (H.sum(-1) - 1).abs().max() <= 4e-7 * n
    if promised.columns:
        assert (H.sum(-2) - 1).abs().max() <= 4e-7 * n
    if promised.orthogonal:
        assert (H.mT @ H - torch.eye(n)).abs().max() <= 2e-6


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=label)
def test_sums_are_one(manifold, seed):
    """Rows and columns to 4e-7 n, orthogonality to 2e-6, also for logits stored in bfloat16."""
    logits = (10 * torch.randn(500, manifold.num_logits)).bfloat16()
    check_sums(manifold, manifold(logits.float()).double())


@pytest.mark.parametrize("manifold", OF_FOUR, ids=label)
def test_half_precision_logits(manifold, seed):
    """Computed in float32; the older sets return their input's dtype, the others float32."""
    logits = torch.randn(7, manifold.num_logits).bfloat16()
    H = manifold(logits)
    assert H.dtype in (torch.float32, torch.bfloat16)
    torch.testing.assert_close(H, manifold(logits.float()).to(H.dtype), rtol=0, atol=0)


@pytest.mark.parametrize("manifold", OF_FOUR, ids=label)
def test_autocast_does_not_reach_the_map(manifold, seed):
    logits = torch.randn(7, manifold.num_logits)
    with torch.autocast("cpu", torch.bfloat16):
        under = manifold(logits)
        half = manifold(logits.bfloat16())
    assert torch.equal(under, manifold(logits))
    assert half.dtype == torch.float32
    assert torch.equal(half, manifold(logits.bfloat16().float()))


@pytest.fixture
def rough_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=label)
def test_guarantees_hold_with_rough_matmuls(manifold, rough_products, seed):
    """Float32 products may then round their factors to TF32 or, on CPUs that have it, bfloat16."""
    check_sums(manifold, manifold(torch.randn(500, manifold.num_logits)).double())


# Not of those that keep the bad matrix for their gradient, which is NaN with it.
KEEP_THE_MATRIX = (sm.manifolds.Birkhoff, sm.manifolds.Sinkhorn, sm.manifolds.ImplicitSinkhorn)


def keeps_the_matrix(manifold):
    return isinstance(getattr(manifold, "whole", manifold), KEEP_THE_MATRIX)


@pytest.mark.parametrize("manifold", [m for m in OF_FOUR if learns(m) and not keeps_the_matrix(m)], ids=label)
def test_a_bad_matrix_that_is_left_out_has_no_gradient(manifold, seed):
    logits = torch.randn(3, manifold.num_logits)
    logits[1, -1] = torch.inf
    logits.requires_grad_()
    H = manifold(logits)
    kept = torch.where(H.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), H, 0)
    (grad,) = torch.autograd.grad(kept.square().sum(), logits)
    assert grad.isfinite().all()
    assert not grad[1].any()


@pytest.mark.parametrize("make", [sm.manifolds.Stiefel, sm.manifolds.Isometric, sm.manifolds.SpectralSphere])
@pytest.mark.parametrize("n", [1, 2])
def test_small_ones_have_a_gradient(make, n, seed):
    manifold = make(n)
    logits = torch.randn(3, manifold.num_logits, requires_grad=True)
    grads = torch.autograd.grad(manifold(logits).sum(), [logits, *manifold.parameters()])
    assert all(grad.isfinite().all() for grad in grads)


def test_one_stream_with_a_bad_logit():
    assert sm.manifolds.Stiefel(1)(torch.tensor([torch.nan])).isnan().all()


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=label)
def test_start_is_close_to_the_identity(manifold):
    n = manifold.streams
    H = manifold(manifold.identity_logits())
    assert manifold.contains(H).item()
    if isinstance(manifold, sm.manifolds.Grassmann):  # a projector of lower rank; it keeps equal streams
        torch.testing.assert_close(H.sum(-1), torch.ones(n))
        return
    nearest = torch.eye(n)
    if isinstance(manifold, sm.manifolds.Contracted):
        nearest = manifold.gamma * nearest + (1 - manifold.gamma) / n
    # mHC-lite's published start spreads 0.8% over the other permutations.
    spread = isinstance(getattr(manifold, "whole", manifold), sm.manifolds.Permutations | sm.manifolds.Kronecker)
    assert (H - nearest).abs().max() < (8e-3 if spread else 4e-3)


@pytest.mark.parametrize("manifold", [m for m in MANIFOLDS if learns(m)], ids=label)
def test_gradient_flows_at_the_start(manifold, seed):
    logits = manifold.identity_logits().repeat(5, 1).requires_grad_()
    H = manifold(logits)
    (g,) = torch.autograd.grad((H * torch.randn_like(H)).sum(), logits)
    assert g.abs().max() > 1e-5


@pytest.mark.parametrize("manifold", [m for m in SMALL if learns(m)], ids=label)
def test_gradcheck(manifold, seed):
    logits = 0.5 * torch.randn(2, manifold.num_logits, dtype=torch.float64)
    assert gradcheck(manifold, (logits.requires_grad_(),))
    # ImplicitSinkhorn's second derivative is that of the limit, which 20 rounds reach to 1e-6 here.
    assert gradgradcheck(manifold, (logits,), fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("manifold", OF_FOUR, ids=label)
def test_transforms(manifold, seed):
    logits = torch.randn(5, manifold.num_logits, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(manifold)(logits), manifold(logits))
    if manifold.num_logits:
        jacobian = torch.func.vmap(torch.func.jacrev(manifold))(logits)
        expected = torch.autograd.functional.jacobian(lambda x: manifold(x).sum(0), logits)
        torch.testing.assert_close(jacobian, expected.movedim(2, 0))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("manifold", [m for m in OF_FOUR if learns(m)], ids=label)
def test_a_non_finite_logit_spoils_its_own_matrix_only(manifold, bad, seed):
    logits = torch.randn(3, manifold.num_logits)
    expected = manifold(logits)
    logits[1, -1] = bad
    H = manifold(logits)
    assert torch.equal(H[[0, 2]], expected[[0, 2]])
    masks = isinstance(getattr(manifold, "whole", manifold), sm.manifolds.Birkhoff | sm.manifolds.OneSided)
    if masks and bad == -torch.inf:
        assert H[1, -1, -1] == (1 - getattr(manifold, "gamma", 1)) / 4
        assert manifold.contains(H).all()
        return
    spoilt = ~H[1].isfinite()
    assert spoilt.any() if isinstance(manifold, sm.manifolds.Unconstrained) else spoilt.all()
    assert manifold.contains(H).tolist() == [True, False, True]


@pytest.mark.parametrize("manifold", OF_FOUR, ids=label)
def test_composition_over_96_sites_does_not_drift(manifold, seed):
    """What is promised of a matrix is promised of products: of 96 of them in float32 up to 96 roundings."""
    if manifold.guarantees == sm.manifolds.Guarantees():
        return
    P = torch.eye(4).expand(50, 4, 4)
    for _ in range(96):
        P = manifold(torch.randn(50, manifold.num_logits)) @ P
    assert sm.manifolds.Manifold.contains(manifold, P, atol=5e-5).all()


def test_contains_refuses():
    manifold = sm.manifolds.Birkhoff(2)
    good = torch.tensor([[0.25, 0.75], [0.75, 0.25]])
    cases = torch.stack(
        [
            good,
            torch.tensor([[0.5, 0.5], [0.4, 0.6]]),  # columns
            torch.tensor([[1.5, -0.5], [-0.5, 1.5]]),  # signs
            torch.tensor([[1.0, 0.0], [0.0, 0.9]]),  # a row
            torch.full((2, 2), torch.nan),
        ]
    )
    assert manifold.contains(cases).tolist() == [True, False, False, False, False]
    assert not sm.manifolds.Identity(2).contains(good).item()
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert sm.manifolds.Stiefel(2).contains(swap).item()
    assert not sm.manifolds.Stiefel(2).contains(good).item()
    half = torch.full((2, 2), 0.5)
    assert sm.manifolds.Grassmann(2).contains(torch.stack([half, torch.eye(2), swap])).tolist() == [True, False, False]


def test_orientation_of_truncated_recipes(seed):
    """DeepSeek's matrix is applied transposed, so its exact axis, the columns, is the rows of H_res."""
    logits = 10 * torch.randn(1000, 16)
    H = sm.manifolds.Sinkhorn(4, recipe="deepseek-v4")(logits)
    assert torch.equal(H, sm.sinkhorn(logits.view(-1, 4, 4), recipe="deepseek-v4").mT)
    assert (H.sum(-1) - 1).abs().max() < 3e-6
    assert (H.sum(-2) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("manifold", OF_FOUR, ids=label)
def test_copies(manifold, seed):
    logits = torch.randn(3, manifold.num_logits)
    twins = [copy.deepcopy(manifold), pickle.loads(pickle.dumps(manifold)), copy.deepcopy(manifold).bfloat16()]
    rebuilt = copy.deepcopy(manifold).to_empty(device="cpu")
    rebuilt.reset_parameters()
    for twin in (*twins, rebuilt):
        assert torch.equal(twin(logits), manifold(logits))
