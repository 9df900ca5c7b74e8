"""What one marginal, a flow, signed deviations and a contraction promise of a matrix and of products over depth."""

import copy
import dataclasses

import mpmath
import pytest
import torch
from torch import nn

import streammix as sm
from streammix.manifolds import Birkhoff, Contracted, Exponential, OneSided, Permutations, UnitDiagonal

SIZES = (2, 3, 4, 8)
GENERATORS = ("conservative", "psd", "diagonal", "conservative-psd", "conservative-diagonal")


def norm(H):
    return torch.linalg.matrix_norm(H, 2)


def product(sites):
    P = sites[0]
    for H in sites[1:]:
        P = H @ P
    return P


# --- one marginal -----------------------------------------------------------------------------------------------


def one_sided(sums, n, sites, scale):
    return list(OneSided(n, sums=sums)(scale * torch.randn(sites, 50, n * n, dtype=torch.float64)))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("sums", ["rows", "columns"])
def test_with_one_marginal_a_product_has_norm_sqrt_n_at_most_at_any_depth(sums, scale, n, seed):
    for depth in (1, 10, 200):
        P = product(one_sided(sums, n, depth, scale))
        assert OneSided(n, sums=sums).contains(P, atol=1e-12 * depth).all()
        assert norm(P).max() <= n**0.5 * (1 + 1e-12 * depth)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("order", [("rows", "columns"), ("columns", "rows")])
def test_a_product_that_switches_once_has_norm_n_at_most(order, n, seed):
    P = product([H for sums in order for H in one_sided(sums, n, 40, 30.0)])
    assert norm(P).max() <= n * (1 + 1e-10)


@pytest.mark.parametrize("n", SIZES)
def test_one_marginal_lets_a_stream_be_replicated_or_all_be_gathered(n):
    """The bounds are attained: every stream a copy of the first, and then all of them gathered in it."""
    first = torch.full((n, n), -torch.inf, dtype=torch.float64)
    first[:, 0] = 0
    replicated = OneSided(n)(first.flatten())
    gathered = OneSided(n, sums="columns")(first.T.flatten())
    x = torch.randn(n, 5, dtype=torch.float64)
    torch.testing.assert_close(replicated @ x, x[:1].expand(n, 5))
    torch.testing.assert_close((gathered @ x)[0], x.sum(0))
    assert norm(replicated).item() == pytest.approx(n**0.5)
    assert norm(gathered).item() == pytest.approx(n**0.5)
    assert norm(gathered @ replicated).item() == pytest.approx(n)


@pytest.mark.parametrize("sums", ["rows", "columns"])
def test_masked_entries_are_zero_and_have_no_gradient(sums, seed):
    manifold = OneSided(4, sums=sums)
    logits = torch.randn(6, 4, 4)
    masked = torch.rand(6, 4, 4) < 0.4
    masked |= torch.eye(4, dtype=torch.bool).logical_not() & masked
    masked.diagonal(dim1=-2, dim2=-1).fill_(False)
    logits = logits.masked_fill(masked, -torch.inf).flatten(1).requires_grad_()
    H = manifold(logits)
    assert not H[masked].any()
    assert manifold.contains(H).all()
    (grad,) = torch.autograd.grad((H * torch.randn_like(H)).sum(), logits)
    assert grad.isfinite().all()
    assert not grad.view_as(masked)[masked].any()


@pytest.mark.parametrize("sums", ["rows", "columns"])
def test_a_line_that_is_masked_as_a_whole_spoils_its_matrix(sums, seed):
    logits = torch.randn(3, 4, 4)
    expected = OneSided(4, sums=sums)(logits.flatten(1))
    spoilt = logits.clone()
    spoilt[1, 2 if sums == "rows" else slice(None), slice(None) if sums == "rows" else 2] = -torch.inf
    H = OneSided(4, sums=sums)(spoilt.flatten(1))
    assert H[1].isnan().all()
    assert torch.equal(H[[0, 2]], expected[[0, 2]])
    other = OneSided(4, sums="columns" if sums == "rows" else "rows")
    assert other.contains(other(spoilt.flatten(1))).all()


# --- a flow -----------------------------------------------------------------------------------------------------


def generator_of(logits, kind, n):
    """S - D in float64, entry by entry."""
    given, M = iter(logits.double().tolist()), torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            if "conservative" in kind if j > i else kind != "conservative" if j == i else "psd" in kind:
                M[i, j] = next(given)
    S = M.triu(1) - M.triu(1).T
    D = M.tril() @ M.tril().T if "psd" in kind else torch.zeros_like(M)
    return S - (nn.functional.softplus(M.diagonal()).diag() if "diagonal" in kind else D)


def exactly(A):
    with mpmath.workdps(60):
        E = mpmath.expm(mpmath.matrix(A.tolist()), method="taylor")
        return torch.tensor([[float(E[i, j]) for j in range(len(A))] for i in range(len(A))], dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 300.0])
@pytest.mark.parametrize("kind", GENERATORS)
def test_the_exponential_is_right_to_rounding_for_logits_of_any_size(kind, scale, seed):
    manifold = Exponential(4, generator=kind)
    logits = scale * torch.randn(manifold.num_logits, dtype=torch.float64)
    A = generator_of(logits, kind, 4)
    size = A.abs().sum(-1).max().item()
    torch.testing.assert_close(manifold(logits), exactly(A), rtol=0, atol=1e-15 * (20 + 4 * size))
    single = logits.float()
    expected = exactly(generator_of(single, kind, 4))
    torch.testing.assert_close(manifold(single).double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
@pytest.mark.parametrize("kind", GENERATORS)
def test_flows_keep_or_shrink_every_norm(kind, scale, n, seed):
    """An isometry without dissipation, else a contraction; float32, up to logits whose squares float32 has not."""
    manifold = Exponential(n, generator=kind)
    H = manifold(scale * torch.randn(50, manifold.num_logits))
    sigma = torch.linalg.svdvals(H.double())
    assert sigma.max() <= 1 + 1e-6
    if kind == "conservative":
        assert sigma.min() >= 1 - 1e-6
        torch.testing.assert_close(torch.linalg.det(H.double()), torch.ones(50).double(), rtol=0, atol=1e-5)
    elif "diagonal" in kind and scale == 1:
        assert sigma.max() < 1
    if "conservative" not in kind:
        torch.testing.assert_close(H, H.mT)
        assert torch.linalg.eigvalsh(H.double()).min() >= -1e-6


def test_two_streams_are_rotated_by_the_angle_dt(seed):
    angle = torch.tensor(0.7, dtype=torch.float64)
    c, s = (0.5 * angle).cos(), (0.5 * angle).sin()
    H = Exponential(2, generator="conservative", dt=0.5)(angle.view(1))
    torch.testing.assert_close(H, torch.stack([c, s, -s, c]).view(2, 2))


@pytest.mark.parametrize("kind", GENERATORS)
def test_half_the_time_twice_is_all_of_it(kind, seed):
    whole, half = (
        Exponential(4, generator=kind, dt=1.5),
        Exponential(4, generator=kind, dt=0.75, learn_dt=True).double(),
    )
    logits = torch.randn(5, whole.num_logits, dtype=torch.float64)
    torch.testing.assert_close(whole(logits), half(logits) @ half(logits))


def test_a_learned_time_learns(seed):
    manifold = Exponential(4, dt=0.3, learn_dt=True)
    logits = torch.randn(5, 16, dtype=torch.float64)
    wide = copy.deepcopy(manifold).double()
    assert list(manifold.state_dict()) == ["log_dt"]
    G = torch.randn(5, 4, 4, dtype=torch.float64)
    (grad,) = torch.autograd.grad((wide(logits) * G).sum(), wide.log_dt)
    step = 1e-6
    ahead, behind = (Exponential(4, dt=0.3 * torch.e ** (sign * step))(logits) for sign in (1, -1))
    torch.testing.assert_close(grad, ((ahead - behind) * G).sum().view(1) / (2 * step), rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        manifold.log_dt.fill_(9)
    manifold.reset_parameters()
    torch.testing.assert_close(manifold.log_dt.exp(), torch.tensor([0.3]))


@pytest.mark.parametrize("n", SIZES)
def test_the_start_of_a_flow_keeps_equal_streams_and_moves(n):
    """The source's start R = 0 does not: the gradient of R R' is zero there."""
    manifold = Exponential(n)
    start = manifold.identity_logits().double()
    H = manifold(start)
    torch.testing.assert_close(H.sum(-1), torch.ones(n).double(), rtol=0, atol=1e-8)
    J = torch.full((n, n), 1 / n, dtype=torch.float64)
    shrunk = torch.exp(torch.tensor(-n * torch.e**-8.0, dtype=torch.float64))
    torch.testing.assert_close(H, J + shrunk * (torch.eye(n) - J), rtol=0, atol=1e-8)
    of_source = torch.zeros(n, n, dtype=torch.float64).flatten().requires_grad_()
    (grad,) = torch.autograd.grad((manifold(of_source) * torch.randn(n, n)).sum(), of_source)
    assert not grad.view(n, n).tril().any()


# --- signed deviations --------------------------------------------------------------------------------------------


def test_off_diagonals_row_by_row(seed):
    entries = torch.randn(6, dtype=torch.float64)
    a, b, c, d, e, f = (0.1 * entries.tanh()).tolist()
    H = UnitDiagonal(3, bound=0.1)(entries)
    torch.testing.assert_close(H, torch.tensor([[1, a, b], [c, 1, d], [e, f, 1]], dtype=torch.float64))
    assert torch.equal(H.diagonal(), torch.ones(3).double())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_deviations_of_either_sign_stay_in_their_bounds(scale, n, seed):
    manifold = UnitDiagonal(n)
    H = manifold(scale * torch.randn(2000, manifold.num_logits, dtype=torch.float64))
    off = H - torch.eye(n)
    assert torch.equal(H.diagonal(dim1=-2, dim2=-1), torch.ones(2000, n).double())
    assert off.abs().max() <= 1 / n
    assert off.min() < -0.5 / n
    assert off.max() > 0.5 / n
    sigma = torch.linalg.svdvals(H)
    assert sigma.max() <= 1 + (n - 1) / n + 1e-12
    assert sigma.min() >= 1 / n - 1e-12  # strictly dominant in rows and columns, by 1/n


def test_a_static_mixer_is_the_same_for_every_token_and_learns(seed):
    site = sm.HyperConnection(nn.Tanh(), 8, 4, "ito-hc", site=0)
    with torch.no_grad():
        for p in site.parameters():
            p.add_(0.3 * torch.randn_like(p))
    pre, _, res = site.coefficients(torch.randn(5, 4, 8))
    assert (res == res[0]).all()
    assert not (pre == pre[0]).all()
    site(torch.randn(5, 4, 8)).square().sum().backward()
    assert (site.manifold.entries.grad != 0).all()
    assert "manifold.entries" in site.state_dict()


# --- a contraction ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("gamma", [0.1, 0.8, 1.0])
@pytest.mark.parametrize("by", ["birkhoff", "permutations"])
def test_a_contraction_keeps_off_the_boundary_and_mixes_at_every_site(by, gamma, n, seed):
    manifold = Contracted(n, gamma=gamma, by=by)
    logits = 10 * torch.randn(200, manifold.num_logits, dtype=torch.float64)
    H = manifold(logits)
    J = torch.full((n, n), 1 / n, dtype=torch.float64)
    P = {"birkhoff": Birkhoff, "permutations": Permutations}[by](n)(logits)
    torch.testing.assert_close(H, gamma * P + (1 - gamma) * J)
    assert H.min() >= (1 - gamma) / n
    assert norm(H - J).max() <= gamma + 1e-12  # of what streams differ by
    depth = product(list(H[:12]))
    assert norm(depth - J) <= gamma**12 + 1e-12
    assert manifold.contains(H, atol=1e-9).all()
    assert gamma == 1 or not manifold.contains(torch.eye(n)).item()


def test_the_recipe_contracts_its_first_four_sites():
    stack = sm.Stack([nn.Identity()] * 6, 8, recipe="cmhc")
    assert [site.manifold.gamma for site in stack] == [0.8] * 4 + [1.0] * 2
    everywhere = dataclasses.replace(stack.recipe, manifold_options={"gamma": 0.5})
    assert [site.manifold.gamma for site in sm.Stack([nn.Identity()] * 6, 8, recipe=everywhere)] == [0.5] * 6
