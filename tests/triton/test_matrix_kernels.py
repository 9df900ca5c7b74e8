"""Kernels on matrices against the plain formulas in float64: on a device where there is one, else interpreted."""

import pytest
import torch
from families import CASES, marginal_error

from streammix.ops.eager import birkhoff as eager
from streammix.ops.eager import sinkhorn as eager_sinkhorn
from streammix.ops.sinkhorn_rules import RECIPES, rule_of
from streammix.ops.triton import birkhoff as thread
from streammix.ops.triton import launch

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALLEST = 1e-12
STEPS = 2.11  # of a warp's slowest matrix, n = 4, logits N(0,1)
#: Levels of the homotopy by the hundred, each many calls of the interpreter.
LONG = {"ties 0/1e30", "N(0,1e37^2)", "blocks -3e+38", "a block apart, with gaps"}
HARD = ("N(0,10^2)", "8 to 30 on a permutation", "-inf", "blocks -10000, shuffled")


def check_projection(R, entry=2e-5, slope=5e-5):
    """The promise of the projection, on logits of any shape (count, n, n)."""
    G = torch.randn_like(R)
    T, D = launch.birkhoff(R.to(DEVICE)).cpu(), None
    exact = eager.birkhoff(R.double())
    off = (T.double() - exact).abs()
    assert (off <= torch.where(exact > SMALLEST, entry * exact, SMALLEST)).all(), (off / exact)[exact > SMALLEST].max()
    assert (T[R.isneginf()] == 0).all()
    assert marginal_error(T).max() <= 8e-7 * R.shape[-1]
    D = launch.birkhoff_backward(G.to(DEVICE), T.to(DEVICE)).cpu()
    wanted = eager.birkhoff_backward(G.double(), T.double())
    largest = wanted.abs().amax((-1, -2), keepdim=True).clamp(min=1e-20)
    assert ((D - wanted).abs() <= slope * largest).all(), ((D - wanted).abs() / largest).max()


@pytest.mark.parametrize("family", [name for name in CASES if name not in LONG])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_projection(n, family, seed):
    check_projection(CASES[family](48, n))


@pytest.mark.parametrize("family", ["ties 0/1e30", "blocks -3e+38"])
def test_projection_of_huge_logits(family, seed):
    check_projection(CASES[family](16, 3))


@pytest.mark.parametrize(
    ("n", "family"),
    [
        *((n, f) for n in (5, 6) for f in ("N(0,1)", "N(0,1000^2)", *HARD)),
        *((7, f) for f in HARD),
        (13, "N(0,1)"),
        (16, "N(0,10^2)"),
    ],
)
def test_projection_of_more_rows(n, family, seed):
    check_projection(CASES[family](32 if n <= 6 else 2, n))


def test_gradients_of_potentials(seed):
    """Row and column potentials in G change nothing; what is left must keep its digits."""
    for n in (4, 5):
        T = eager.birkhoff(torch.randn(64, n, n))
        left = 1e-3 * torch.randn_like(T)
        G = left + 100 * torch.randn(64, n, 1) + 100 * torch.randn(64, 1, n)
        D = launch.birkhoff_backward(G.to(DEVICE), T.to(DEVICE)).cpu()
        wanted = eager.birkhoff_backward(G.double(), T.double())
        assert (D - wanted).abs().max() <= 5e-5 * wanted.abs().amax((-1, -2)).min()


def test_a_matrix_depends_on_itself_alone(seed):
    some = ("N(0,1)", "N(0,10^2)", "8 to 30 on a permutation", "N(0,100^2)", "-inf")
    R = torch.cat([CASES[name](6, 4) for name in some]).to(DEVICE)
    R[3, 1, 2], R[8, 0, 0], R[14, 2] = torch.nan, torch.inf, -torch.inf  # no row may be masked whole
    T = launch.birkhoff(R)
    assert T.isnan().flatten(1).any(1).nonzero().flatten().tolist() == [3, 8, 14]
    assert T[[3, 8, 14]].isnan().all()
    order = torch.randperm(len(R))
    assert torch.equal(T[order].nan_to_num(9), launch.birkhoff(R[order]).nan_to_num(9))
    for i in (0, 9, 20):
        assert torch.equal(T[i : i + 1].nan_to_num(9), launch.birkhoff(R[i : i + 1]).nan_to_num(9))
    G = torch.randn_like(T)
    D = launch.birkhoff_backward(G, T)
    assert torch.equal(D[order].nan_to_num(9), launch.birkhoff_backward(G[order], T[order]).nan_to_num(9))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 7, 16])
@pytest.mark.parametrize("recipe", RECIPES)
def test_sinkhorn(recipe, n, seed):
    rule = rule_of(recipe, None)
    for size, rounds in ((1.0, 20), (30.0, 3), (1e37, 1)):
        R, G = size * torch.randn(24, n, n), torch.randn(24, n, n)
        # the clamp acts on what exp leaves in the format: float32 is part of its formula
        exact = R if rule.start == "exp" else R.double()
        arguments = (rounds, *rule.numbers)
        M = launch.sinkhorn(R.to(DEVICE), *arguments).cpu()
        wanted = eager_sinkhorn.sinkhorn(exact, *arguments)
        torch.testing.assert_close(M.double(), wanted.double(), rtol=2e-5, atol=2e-6)
        D = launch.sinkhorn_backward(G.to(DEVICE), R.to(DEVICE), *arguments).cpu()
        wanted = eager_sinkhorn.sinkhorn_backward(G.to(exact.dtype), exact, *arguments)
        torch.testing.assert_close(D.double(), wanted.double(), rtol=1e-4, atol=2e-6)


def test_sinkhorn_of_what_is_not_finite(seed):
    for n in (4, 7):
        R = torch.randn(5, n, n)
        R[1, 0, 1], R[2, 1, 1], R[3, 0, 0] = torch.nan, torch.inf, -torch.inf
        M = launch.sinkhorn(R.to(DEVICE), 5, *RECIPES["deepseek-v4"].numbers).cpu()
        D = launch.sinkhorn_backward(torch.ones_like(R).to(DEVICE), R.to(DEVICE), 5, *RECIPES["mhc"].numbers).cpu()
        for result in (M, D):
            assert result.isnan().flatten(1).all(1).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_shapes_and_dtypes(dtype, seed):
    R = torch.randn(4, 3, 5, 4, dtype=dtype, device=DEVICE).permute(1, 2, 0, 3)[..., :4, :]
    T = launch.birkhoff(R)
    assert (T.dtype, T.shape) == (dtype, R.shape)
    torch.testing.assert_close(T.float(), eager.birkhoff(R.double()).float(), atol=torch.finfo(dtype).eps, rtol=0)
    for n in (2, 4, 6, 9):
        nothing = torch.empty(0, 3, n, n, dtype=dtype, device=DEVICE)
        assert launch.birkhoff(nothing).shape == launch.birkhoff_backward(nothing, nothing).shape == nothing.shape
        assert launch.sinkhorn(nothing, 3, 0, True, 0.0).shape == nothing.shape
    one = torch.randn(4, 4, device=DEVICE)
    torch.testing.assert_close(launch.birkhoff(one), eager.birkhoff(one), atol=1e-6, rtol=0)


@pytest.mark.skipif(DEVICE != "cpu", reason="counted in the interpreter")
def test_steps_of_a_warp(monkeypatch):
    """On which test_compiled.py relies: the Newton steps of 32 matrices that wait for the slowest, always the same."""
    torch.manual_seed(0)
    steps = 0
    newton = thread.newton

    def counting(*args, **kwargs):
        nonlocal steps
        steps += 1
        return newton(*args, **kwargs)

    monkeypatch.setattr(thread, "newton", counting)
    monkeypatch.setattr(launch, "block_for", lambda count: 32)
    launch.birkhoff(torch.randn(128 * 32, 4, 4))
    assert steps / 128 <= STEPS
