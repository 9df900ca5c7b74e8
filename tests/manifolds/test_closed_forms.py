"""Values that can be worked out by hand: starts, spectra, small matrices, what an option means."""

import itertools
import math

import pytest
import torch

import streammix as sm
from streammix.manifolds import (
    Birkhoff,
    Circulant,
    Contracted,
    Exponential,
    Grassmann,
    ImplicitSinkhorn,
    Isometric,
    Kronecker,
    OneSided,
    Orthostochastic,
    PermutationMix,
    Permutations,
    Quaternion,
    Sinkhorn,
    SpectralSphere,
    Stiefel,
    Transportation,
    UnitDiagonal,
)
from streammix.manifolds.rotations import SumsKept, helmert, rotation
from streammix.ops.eager.cayley import skew

J = torch.full((4, 4), 0.25, dtype=torch.float64)
EYE = torch.eye(4, dtype=torch.float64)
e8 = math.exp(-8)


def start(manifold):
    return manifold(manifold.identity_logits().double())


@pytest.mark.parametrize(
    ("manifold", "sigma_2"),
    [
        (Birkhoff(4), (1 - e8) / (1 + 3 * e8)),
        (Sinkhorn(4), (1 - e8) / (1 + 3 * e8)),
        (ImplicitSinkhorn(4), (1 - e8) / (1 + 3 * e8)),
        (Permutations(4), (1 - e8) / (1 + 23 * e8)),
        (Kronecker(4), math.tanh(4)),
        (Kronecker(4, by="closed"), math.tanh(4)),
        (SpectralSphere(4), math.tanh(4)),
        (Circulant(4), (1 - e8) / (1 + 3 * e8)),
        (Isometric(4), 1),
        (Stiefel(4), 1),
        (Quaternion(4), 1),
        (Grassmann(4), 1),
        (OneSided(4), (1 - e8) / (1 + 3 * e8)),
        (Exponential(4, generator="diagonal"), 1 / (1 + e8)),
        (Exponential(4, generator="conservative"), 1),
        (UnitDiagonal(4), 1),
        (Contracted(4), 0.8 * (1 - e8) / (1 + 3 * e8)),
    ],
    ids=repr,
)
def test_sigma_2_at_the_start(manifold, sigma_2):
    assert torch.linalg.svdvals(start(manifold))[1].item() == pytest.approx(sigma_2, abs=1e-12)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_orthostochastic_starts_where_mhc_does_and_zero_is_dead(s):
    manifold = Orthostochastic(4, s=s)
    assert torch.linalg.svdvals(start(manifold))[1].item() == pytest.approx(1 - 4 * e8, abs=1e-5)
    logits = torch.zeros(manifold.num_logits, requires_grad=True)
    H = manifold(logits)
    (g,) = torch.autograd.grad((H * torch.arange(16.0).view(4, 4)).sum(), logits)
    assert not g.any()


def test_published_starts_of_the_charts():
    zero = torch.zeros(9, dtype=torch.float64)
    H = Transportation(4)(zero)
    expected = [[1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 4, 3 / 8, 3 / 16, 3 / 16], *[[1 / 8, 3 / 16, 11 / 32, 11 / 32]] * 2]
    torch.testing.assert_close(H, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
    sigma = torch.linalg.svdvals(H)
    torch.testing.assert_close(sigma, torch.tensor([1, 0.410, 0.152, 0], dtype=torch.float64), rtol=0, atol=5e-4)
    for n in (2, 4, 8, 16):
        H = Transportation(n, chart="recursive")(torch.zeros((n - 1) ** 2, dtype=torch.float64))
        torch.testing.assert_close(H, torch.full_like(H, 1 / n), rtol=0, atol=1e-15)
    near = Transportation(4)((16 * torch.eye(3) - 8).flatten().double())
    torch.testing.assert_close(
        near.diagonal(), torch.tensor([0.9997, 0.9997, 0.9997, 0.9990]).double(), rtol=0, atol=5e-5
    )


@pytest.mark.parametrize("n", range(2, 7))
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("chart", ["sequential", "recursive"])
def test_a_chart_has_full_rank(chart, scaled, n, seed):
    """(n - 1)^2 logits move H in as many directions: none is wasted, none is missing."""
    manifold = Transportation(n, chart=chart, scaled=scaled)
    logits = (1e-3 if scaled else 0.3) * torch.randn(manifold.num_logits, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(manifold, logits).flatten(0, 1)
    assert torch.linalg.matrix_rank(jacobian, rtol=1e-9) == (n - 1) ** 2


def test_scaled_charts_have_slope_one_at_the_midpoint():
    H = torch.autograd.functional.jacobian(Transportation(2, scaled=True), torch.zeros(1, dtype=torch.float64))
    assert H[0, 0, 0].item() == pytest.approx(1 / 1.001)


def test_circulant(seed):
    logits = torch.randn(3, dtype=torch.float64)
    a, b, c = logits.softmax(-1)
    plain = Circulant(3)(logits)
    torch.testing.assert_close(plain, torch.stack([a, b, c, c, a, b, b, c, a]).view(3, 3))
    leaky = Circulant(3, sites=10, beta=4.0)(logits)
    torch.testing.assert_close(leaky, 0.8 * torch.eye(3, dtype=torch.float64) + 0.2 * plain)
    gamma = 4 / (2 * 24)
    torch.testing.assert_close(Circulant(4, sites=24)(torch.zeros(4).double()), (1 - gamma) * EYE + gamma * J)


def test_the_leak_bounds_what_all_sites_erase(seed):
    sites, P = 24, EYE
    for logits in 100 * torch.randn(sites, 4, dtype=torch.float64):
        P = Circulant(4, sites=sites)(logits) @ P
    assert torch.linalg.svdvals(P)[-1] >= (1 - 4 / sites) ** sites


def test_permutations(seed):
    a = torch.randn(6, dtype=torch.float64)
    matrices = [torch.eye(3, dtype=torch.float64)[list(p)] for p in itertools.permutations(range(3))]
    expected = sum(w * P for w, P in zip(a.softmax(-1), matrices))
    torch.testing.assert_close(Permutations(3)(a), expected)
    assert [Permutations(n).num_logits for n in (1, 2, 5, 6, 7, 10)] == [1, 2, 120, 720, 98, 200]
    sampled = Permutations(9, seed=1).permutations
    assert sampled == Permutations(9, seed=1).permutations != Permutations(9, seed=2).permutations
    assert sampled[0] == tuple(range(9))
    assert len(set(sampled)) == 162
    own = Permutations(3, subset=[(2, 0, 1), (0, 1, 2)])
    torch.testing.assert_close(start(own), torch.eye(3).double(), rtol=0, atol=4e-4)


def test_all_permutations_of_a_sampled_start_keep_the_identity():
    for n in (4, 5, 6, 8, 12):
        identity_weight = Permutations(n).identity_logits().double().softmax(-1).max().item()
        assert identity_weight == pytest.approx(1 / (1 + 23 * e8), abs=2e-8)


def test_permutation_mix():
    fixed = [(0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (1, 2, 3, 0), (3, 0, 1, 2)]
    assert PermutationMix(4).permutations[:5] == fixed
    assert len(set(PermutationMix(4).permutations)) == 6
    assert set(PermutationMix(3).permutations) == set(itertools.permutations(range(3)))


def test_kronecker(seed):
    manifold = Kronecker(6)
    assert manifold.num_logits == 2 + 6
    logits = torch.randn(8, dtype=torch.float64)
    U, V = Permutations(2)(logits[:2]), Permutations(3)(logits[2:])
    torch.testing.assert_close(manifold(logits), torch.kron(U, V))
    other = Kronecker(6, factors=(3, 2), by="birkhoff")
    logits = torch.randn(13, dtype=torch.float64)
    expected = torch.kron(sm.birkhoff(logits[:9].view(3, 3)), sm.birkhoff(logits[9:].view(2, 2)))
    torch.testing.assert_close(other(logits), expected)
    assert [Kronecker(n).num_logits for n in (1, 4, 5, 8, 9, 12)] == [0, 4, 120, 6, 12, 10]
    p = math.tanh(4)
    eigenvalues = torch.linalg.eigvalsh(start(Kronecker(4)))
    torch.testing.assert_close(eigenvalues, torch.tensor([p * p, p, p, 1]).double())


def test_all_ways_to_make_a_two_by_two_factor_agree(seed):
    a, b = torch.randn(2, dtype=torch.float64)
    closed = Kronecker(4, by="closed")(torch.stack([a, b]))
    by_permutations = Kronecker(4)(torch.stack([a, 0 * a, b, 0 * b]))
    projected = Kronecker(4, by="birkhoff")(torch.stack([a, 0 * a, 0 * a, a, b, 0 * b, 0 * b, b]))
    torch.testing.assert_close(by_permutations, closed)
    torch.testing.assert_close(projected, closed)


def test_helmert():
    for n in range(1, 8):
        U = helmert(n, EYE)
        torch.testing.assert_close(U.mT @ U, torch.eye(n - 1).double())
        torch.testing.assert_close(U.sum(0), torch.zeros(n - 1).double())
    torch.testing.assert_close(helmert(3, EYE)[:, 1], torch.tensor([1, 1, -2]).double() / math.sqrt(6))

    E = torch.randn(2, 3, 3, dtype=torch.float64)
    U = helmert(4, E)
    torch.testing.assert_close(SumsKept(4)(E), J + U @ E @ U.mT)


@pytest.mark.parametrize("name", ["auto", "eager"])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7])
def test_rotation(n, name, seed):
    entries = torch.randn(10, n * (n - 1) // 2, dtype=torch.float64)
    A, eye = skew(entries, n), torch.eye(n).double()
    assert torch.equal(A, -A.mT)
    with sm.backend(name):
        torch.testing.assert_close(rotation(entries, n) @ (eye + A), (eye - A).expand_as(A))
        huge = rotation(1e3 * entries.float(), n).double()
        torch.testing.assert_close(huge, rotation(1e3 * entries, n), rtol=0, atol=3e-3)
    if n:
        assert (huge.mT @ huge - eye).abs().max() < 2e-6


def test_spectral_sphere(seed):
    """Mean part kept, singular values of the complement tanh of the last n - 1 logits."""
    logits = torch.randn(9, dtype=torch.float64)
    H = SpectralSphere(4)(logits)
    torch.testing.assert_close(
        torch.linalg.svdvals(H - J), torch.cat([logits[6:].tanh().abs().sort(descending=True)[0], torch.zeros(1)])
    )
    diagonal = start(SpectralSphere(4)).diagonal()
    torch.testing.assert_close(diagonal, torch.full((4,), 0.9995).double(), rtol=0, atol=1e-5)
    one = Isometric(4)(logits[:3])
    torch.testing.assert_close(one.sum(-1), torch.ones(4).double())
    torch.testing.assert_close(torch.linalg.svdvals(one - J), torch.tensor([1, 1, 1, 0]).double())


def test_stiefel_and_its_iteration(seed):
    logits = 0.1 * torch.randn(1000, 16, dtype=torch.float64)
    exact, paper = Stiefel(4), Stiefel(4, iterations=2)
    torch.testing.assert_close(paper(logits), exact(logits), rtol=0, atol=1e-4)
    torch.testing.assert_close(Stiefel(4, iterations=40)(logits), exact(logits), rtol=0, atol=1e-15)

    def error(manifold, scale):
        Y = manifold(scale * torch.randn(10_000, 16, dtype=torch.float64))
        return (Y.mT @ Y - EYE).abs().amax((-1, -2))

    # Medians of the paper's truncation: 1.7e-5, 2e-3, 30 at logits of size 0.3, 1 and 10.
    assert error(paper, 0.3).median().item() == pytest.approx(1.7e-5, rel=0.3)
    assert error(paper, 1.0).median().item() == pytest.approx(2e-3, rel=0.3)
    assert error(paper, 10.0).median().item() > 10
    assert error(exact, 10.0).max() < 1e-14


def test_stiefel_closed_form_of_four(seed):
    """H = (I + B)^2 ((1 + p) I + B^2) / (1 + p + q), p = |B|^2 / 2, q = Pf(B)^2 for B = alpha/2 (L - L')."""
    L = torch.randn(4, 4, dtype=torch.float64)
    B = 0.05 * (L - L.mT)
    p = B.square().sum() / 2
    q = (B[0, 1] * B[2, 3] - B[0, 2] * B[1, 3] + B[0, 3] * B[1, 2]) ** 2
    expected = (EYE + B) @ (EYE + B) @ ((1 + p) * EYE + B @ B) / (1 + p + q)
    torch.testing.assert_close(Stiefel(4)(L.flatten()), expected)


def test_quaternion(seed):
    assert torch.equal(Quaternion()(torch.zeros(8)), torch.eye(4))
    H = Quaternion()(torch.randn(200, 8, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(H), torch.ones(200).double())
    # i * 1 = i, and 1 * conj(i) = -i
    by_i = torch.zeros(2, 8, dtype=torch.float64)
    by_i[0, :2] = by_i[1, 4:6] = torch.tensor([-1.0, 1.0])
    images = Quaternion()(by_i)[:, :, 0]
    torch.testing.assert_close(images, torch.tensor([[0.0, 1, 0, 0], [0, -1, 0, 0]]).double())
    assert torch.equal(Quaternion()(torch.tensor([-1.0, 0, 0, 0, -1, 0, 0, 0])), torch.eye(4))
    logits = torch.zeros(8, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(Quaternion(), logits).flatten(0, 1)
    assert (jacobian.abs().amax(0) > 0).tolist() == [False, True, True, True] * 2  # l_0 and l_4 are radial


def test_grassmann(seed):
    manifold = Grassmann(5, rank=3).double()
    none = torch.zeros(2, 0, dtype=torch.float64)
    assert manifold(none).shape == (2, 5, 5)
    with torch.no_grad():
        manifold.V.normal_()
    H = manifold(none)
    V = manifold.V
    torch.testing.assert_close(H[0], V @ torch.linalg.inv(V.mT @ V) @ V.mT)
    assert manifold.contains(H).all()
    (g,) = torch.autograd.grad((H * torch.randn_like(H)).sum(), V)
    assert g.abs().max() > 0
    torch.testing.assert_close(V.mT @ g, torch.zeros(3, 3).double(), rtol=0, atol=1e-12)  # horizontal
    assert torch.equal(Grassmann(3, rank=3)(torch.zeros(0)).round(decimals=6), torch.eye(3))


def test_implicit_sinkhorn(seed):
    manifold = ImplicitSinkhorn(4)
    logits = torch.randn(10, 16, dtype=torch.float64, requires_grad=True)
    P = manifold(logits)
    plain = logits.detach().unflatten(-1, (4, 4)).exp()
    for _ in range(20):
        plain = plain / plain.sum(-1, keepdim=True)
        plain = plain / plain.sum(-2, keepdim=True)
    torch.testing.assert_close(P, plain)
    assert torch.equal(manifold(3e4 * logits), manifold((3e4 * logits).clamp(-10, 10)))
    # next to the identity, where the paper's Gauss-Seidel is off by 88%
    G = torch.randn(4, 4, dtype=torch.float64)
    near = (6 * EYE - 3).flatten().requires_grad_()
    (ours,) = torch.autograd.grad((ImplicitSinkhorn(4, rounds=5000)(near) * G).sum(), near)
    (exact,) = torch.autograd.grad((sm.birkhoff(near.view(4, 4)) * G).sum(), near)
    torch.testing.assert_close(ours, exact)
    beyond = torch.full((16,), 11.0, requires_grad=True)
    (g,) = torch.autograd.grad(manifold(beyond).square().sum(), beyond)
    assert not g.any()


@pytest.mark.parametrize("s", [1, 2])
def test_orthostochastic(s, seed):
    manifold = Orthostochastic(3, s=s)
    logits = torch.randn(manifold.num_logits, dtype=torch.float64)
    Q = rotation(logits, 3 * s)
    for i, j in itertools.product(range(3), repeat=2):
        block = Q[i * s : (i + 1) * s, j * s : (j + 1) * s]
        assert manifold(logits)[i, j].item() == pytest.approx(block.square().sum().item() / s)
    assert [Orthostochastic(4, s=s).num_logits for s in (1, 2)] == [6, 28]


def test_minorised_transportation(seed):
    logits = torch.randn(9, dtype=torch.float64)
    plain, manifold = Transportation(4), Transportation(4, minorised=True)
    share = 1 / (1 + math.exp(8))
    torch.testing.assert_close(manifold(logits), (1 - share) * plain(logits) + share * J)
    (grad,) = torch.autograd.grad(manifold(logits)[0, 0], manifold.share)
    assert grad != 0
    with torch.no_grad():
        manifold.share.fill_(50)
    torch.testing.assert_close(manifold(1e4 * logits), J)


def test_the_recipes_of_the_charts_are_minorised_and_take_states_from_before(seed):
    x = torch.randn(7, 4, 8)
    for recipe in ("tbp", "rtbp"):
        site = sm.HyperConnection(None, 8, 4, recipe, site=0)
        assert site.manifold.share.item() == -8
        chart = dict(sm.recipes.get(recipe).manifold_options) | {"minorised": False}
        plain = sm.HyperConnection(None, 8, 4, recipe, manifold=Transportation(4, **chart), site=0)
        with torch.no_grad():
            plain.logits.bias.normal_()
        before = plain.state_dict()
        for metadata in before._metadata.values():
            metadata["version"] = 1
        site.load_state_dict(before)
        assert torch.equal(site.coefficients(x)[2], plain.coefficients(x)[2])
        with pytest.raises(RuntimeError, match=r"Missing key.*manifold.share"):
            site.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("chart", ["sequential", "recursive"])
def test_no_entry_of_a_chart_is_negative(chart, scaled, n, seed):
    manifold = Transportation(n, chart=chart, scaled=scaled)
    for scale in (0.3, 1, 8, 40, 1e4):
        logits = scale * torch.randn(2000, manifold.num_logits)
        H, exact = manifold(logits), manifold(logits.double())
        assert H.min() >= 0
        assert exact.min() >= 0
        for sums in (H.sum(-1), H.sum(-2)):
            torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=n * 2e-7)
        torch.testing.assert_close(H.double(), exact, rtol=0, atol=n * 2e-7)


@pytest.mark.parametrize("n", [5, 7, 9])
def test_a_mass_is_split_in_turn_unless_n_is_a_power_of_two(n):
    """At zero logits half of the last column is in its corner; of the rest each row takes half of what is left."""
    H = Transportation(n, chart="recursive")(torch.zeros((n - 1) ** 2, dtype=torch.float64))
    shares = [0.5 ** (i + 2) for i in range(n - 2)]
    expected = torch.tensor([*shares, shares[-1], 0.5], dtype=torch.float64)
    torch.testing.assert_close(H[:, -1], expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(H[-1], expected, rtol=0, atol=1e-15)
