"""The projection onto transportation polytopes: every digit, derivatives, masks, and what is refused."""

import precise_transport as precise
import pytest
import torch
from families import FAMILIES

import streammix as sm

BACKENDS = [b.name for b in sm.backends() if b.available]
SMALLEST = 1e-12  # of min(row, column): the least entry whose digits are promised
HARD = {name: draw for name, draw in FAMILIES.items() if name not in ("ties 0/1e30", "N(0,1e37^2)")}


def marginals(count, m, n, decades=0.0):
    """Positive, log-uniform over so many decades, of sum one."""
    drawn = [10 ** (-decades * torch.rand(count, k)) for k in (m, n)]
    return [x / x.sum(-1, keepdim=True) for x in drawn]


def logits(family, count, m, n):
    size = max(m, n)
    return FAMILIES[family](count, size)[:, :m, :n].contiguous()


def numbers(exact):
    return torch.tensor([[float(x) for x in row] for row in exact], dtype=torch.float64)


def whole(counts):
    """(B, m, n) bool -> (B,): whether these entries connect all columns. Where they do not, what moves the marginals of
    a group are entries whose digits are not promised."""
    reach = torch.eye(counts.shape[-1]).expand(len(counts), -1, -1)
    step = (counts.mT.float() @ counts.float() > 0).float()
    for _ in range(counts.shape[-1]):
        reach = ((reach @ step + reach) > 0).float()
    return (reach > 0).flatten(1).all(-1)


def check_digits(R, r, c, G):
    """Entries and gradients of every backend against 50 digits."""
    exact = [precise.project(*(t.tolist() for t in one)) for one in zip(R, r, c)]
    slopes = [precise.gradients(T, g.tolist()) for T, g in zip(exact, G)]
    T = torch.stack([numbers(t) for t in exact])
    expected = [torch.stack([numbers(s[0]) for s in slopes])]
    expected += [torch.tensor([[float(v) for v in s[k]] for s in slopes], dtype=torch.float64) for k in (1, 2)]
    scale = torch.minimum(r.double().unsqueeze(-1), c.double().unsqueeze(-2))
    to_rows = r.double().sum(-1, keepdim=True) / c.double().sum(-1, keepdim=True)
    for backend in BACKENDS:
        for dtype, entry, slope in ((torch.float32, 2e-5, 5e-5), (torch.float64, 1e-11, 1e-11)):
            inputs = [t.to(dtype).requires_grad_() for t in (R, r, c)]
            with sm.backend(backend):
                ours = sm.transport(*inputs)
                grads = torch.autograd.grad(ours, inputs, G.to(dtype))
            off = (ours.double() - T).abs()
            counts = T / scale > SMALLEST
            bound = torch.where(counts, entry * T, 2 * SMALLEST * scale)
            assert (off <= bound).all(), (backend, dtype, (off / T)[counts].max())
            eps = 1e-6 if dtype == torch.float32 else 1e-14
            assert ((ours.double().sum(-1) - r) / r).abs().max() <= eps
            assert ((ours.double().sum(-2) - c.double() * to_rows) / c).abs().max() <= eps
            for grad, right in zip(grads, expected):
                largest = right.abs().flatten(1).amax(-1)
                wrong = (grad.double() - right).abs().flatten(1).amax(-1)
                # of the logits, down to where T's digits end; of marginals, relative to the gradient that came in too
                bound = slope * largest
                if right.ndim == 3:
                    bound = bound + 8 * SMALLEST * scale.flatten(1).amax(-1)
                else:
                    bound = torch.where(whole(T / scale > SMALLEST), bound.clamp(min=slope), torch.inf)
                assert (wrong <= bound).all(), (backend, dtype, right.shape, wrong / largest)
            assert (ours[R.isneginf()] == 0).all()
            assert (grads[0][R.isneginf()] == 0).all()


@pytest.mark.parametrize("decades", [0, 6])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 3), (4, 4), (6, 4), (5, 9)])
@pytest.mark.parametrize("family", HARD)
def test_every_digit(family, m, n, decades, seed):
    count = 2 if m * n <= 24 else 1
    check_digits(logits(family, count, m, n), *marginals(count, m, n, decades), torch.randn(count, m, n))


@pytest.mark.parametrize("family", ["N(0,1)", "N(0,10^2)"])
def test_every_digit_of_32_by_64(family, seed):
    check_digits(logits(family, 1, 32, 64), *marginals(1, 32, 64, 6), torch.randn(1, 32, 64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_potentials_of_some_tens_cost_no_digits(backend, seed):
    """In gradients that are mostly x 1' + 1 w', of which nothing is left: by 50 digits, of the smallest matrices."""
    count = 200
    T = torch.randn(count, 2, 2).exp()
    T = T / T.sum((-1, -2), keepdim=True)
    G = torch.randn(count, 2, 2) + 20 * (1 + 2 * torch.rand(count, 1, 1)) * torch.randn(count, 1, 2).sign() / 2
    exact = torch.stack([numbers(precise.gradients(exact_of(t), g.tolist())[0]) for t, g in zip(T, G)])
    with sm.backend(backend):
        D = sm.ops.operators_for(T, 2).transport_backward(G, T)[0]
    off = (D.double() - exact).abs().amax((-1, -2)) / exact.abs().amax((-1, -2))
    assert off.max() <= 3e-6


def exact_of(T):
    return [[precise.mpf(x) for x in row] for row in T.tolist()]


@pytest.mark.parametrize("family", FAMILIES)
def test_uniform_square_is_birkhoff(family, seed):
    """Also the families that are too large for the reference."""
    R = FAMILIES[family](200, 4)
    one = torch.ones(4)
    ours, theirs = sm.transport(R, one, one), sm.birkhoff(R)
    sound = ~ours.isnan()
    assert sound.float().mean() > 0.98
    torch.testing.assert_close(ours[sound], theirs[sound], rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("apart", [16.0, 30.0, 1e4, 1e9, torch.inf])
def test_blocks_are_as_if_alone(apart, seed):
    """Two blocks whose marginals agree, with next to nothing between."""
    (r1, c1), (r2, c2) = marginals(5, 4, 3, 2), marginals(5, 5, 6, 2)
    # numbers of few digits, so that the sums of both are one exactly
    fix = lambda x: torch.cat([(x[:, 1:] * 4096).ceil() / 4096, x[:, :0]], -1)  # noqa: E731
    sides = []
    for x in (r1, c1, r2, c2):
        rest = fix(x)
        sides.append(torch.cat([4 - rest.sum(-1, keepdim=True), rest], -1))
    r1, c1, r2, c2 = sides
    R1, R2 = torch.randn(5, 4, 3), torch.randn(5, 5, 6)
    R = torch.full((5, 9, 9), -apart)
    R[:, :4, :3], R[:, 4:, 3:] = R1, R2
    for backend in BACKENDS:
        with sm.backend(backend):
            T = sm.transport(R, torch.cat([r1, r2], -1), torch.cat([c1, c2], -1))
            alone = sm.transport(R1, r1, c1), sm.transport(R2, r2, c2)
        least = 1e-4 if apart == 16 else 1e-9
        torch.testing.assert_close(T[:, :4, :3], alone[0], rtol=1e-6, atol=least)
        torch.testing.assert_close(T[:, 4:, 3:], alone[1], rtol=1e-6, atol=least)


def test_masks(seed):
    """Feasible ones, of which some leave no choice; and one that no matrix has."""
    for backend in BACKENDS:
        for dtype in (torch.float32, torch.float64):
            R = torch.randn(3, 5, 4, dtype=dtype)
            R[:, 0, 1:] = -torch.inf  # row 0 has column 0 alone
            r = torch.tensor([0.3, 0.2, 0.1, 0.25, 0.15], dtype=dtype)
            c = torch.tensor([0.4, 0.2, 0.1, 0.3], dtype=dtype)
            with sm.backend(backend):
                T = sm.transport(R, r, c)
                torch.testing.assert_close(T[:, 0, 0], r[0].expand(3))
                torch.testing.assert_close(T.sum(-2), c.expand(3, 4), rtol=1e-6, atol=0)
                # as much as the column takes: the others' entries there must be zero
                tight = sm.transport(R, r, torch.tensor([0.3, 0.2, 0.2, 0.3], dtype=dtype))
                assert not tight.isnan().any()
                assert (tight[:, 1:, 0] < 1e-11).all()
                # more than it takes
                some = torch.stack([c, torch.tensor([0.2, 0.2, 0.3, 0.3], dtype=dtype), c])
                mixed = sm.transport(R, r, some)
            assert mixed[1].isnan().all()
            torch.testing.assert_close(mixed[[0, 2]], T[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_has_no_solution_is_nan_and_nothing_else(backend, seed):
    R, (r, c) = torch.randn(9, 4, 3), marginals(9, 4, 3)
    sound = R.clone(), r.clone(), c.clone()
    R[0, 1, 1] = torch.nan
    R[1, 1, 1] = torch.inf
    R[2, 1] = -torch.inf
    R[3, :, 1] = -torch.inf
    r[4, 0] = 0
    c[5, 0] = -0.1
    r[6] *= 1.001
    c[7, 0] = torch.nan
    with sm.backend(backend):
        T = sm.transport(R, r, c)
        expected = sm.transport(*sound)
    assert T[:8].isnan().all()
    torch.testing.assert_close(T[8], expected[8], rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 3), (3, 1), (4, 3), (3, 5), (4, 4)])
def test_gradcheck(m, n, backend, seed):
    R = torch.randn(2, m, n, dtype=torch.float64, requires_grad=True)
    r, c = (t.double().requires_grad_() for t in marginals(2, m, n, 1))
    with sm.backend(backend):
        assert torch.autograd.gradcheck(sm.transport, (R, r, c), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(sm.transport, (R, r, c))


def test_transforms(seed):
    R, (r, c) = torch.randn(3, 4, 5, dtype=torch.float64), marginals(3, 4, 5)
    r, c = r.double(), c.double()
    torch.testing.assert_close(torch.vmap(sm.transport)(R, r, c), sm.transport(R, r, c))
    torch.testing.assert_close(torch.vmap(sm.transport, (0, None, None))(R, r[0], c[0]), sm.transport(R, r[0], c[0]))
    for argument in range(3):
        one = R[0], r[0], c[0]
        there = torch.func.jacrev(sm.transport, argument)(*one)
        torch.testing.assert_close(torch.func.jacfwd(sm.transport, argument)(*one), there)
    torch._dynamo.reset()
    compiled = torch.compile(sm.transport, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (2, 3):
        inputs = [t[:batch].clone().requires_grad_() for t in (R, r, c)]
        G = torch.randn(batch, 4, 5, dtype=torch.float64)
        torch.testing.assert_close(
            torch.autograd.grad(compiled(*inputs), inputs, G), torch.autograd.grad(sm.transport(*inputs), inputs, G)
        )


def test_broadcasting_dtypes_and_strides(seed):
    R, (r, c) = torch.randn(2, 3, 4, 5), marginals(1, 4, 5)
    r, c = r[0].requires_grad_(), c[0].requires_grad_()
    T = sm.transport(R, r, c)
    assert T.shape == (2, 3, 4, 5)
    torch.testing.assert_close(T, sm.transport(R.mT.contiguous().mT, r, c))
    assert [g.shape for g in torch.autograd.grad(T.square().sum(), (r, c))] == [(4,), (5,)]
    assert sm.transport(R[0, 0], r.expand(7, 4), c).shape == (7, 4, 5)
    assert sm.transport(torch.randn(0, 4, 5), r, c).shape == (0, 4, 5)
    assert sm.transport(R.half(), r, c).dtype == torch.float16
    assert sm.transport(R, r.double(), c.double()).dtype == torch.float32
    with torch.autocast("cpu"):
        assert sm.transport(R.bfloat16(), r, c).dtype == torch.float32
        torch.testing.assert_close(sm.transport(R, r, c), T)
    torch.testing.assert_close(sm.transport(R, 1000 * r, 1000 * c), 1000 * T)
    # columns are scaled to the sum of the rows
    torch.testing.assert_close(sm.transport(R, r, c * (1 + 5e-6)), T)


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        (((4,), (4,), (4,)), ValueError, r"logits: got shape \(4,\); accepted: \(\.\.\., m, n\)"),
        (((0, 4), (0,), (4,)), ValueError, r"logits: got shape \(0, 4\)"),
        (((4, 5), (5,), (5,)), ValueError, r"rows: got shape \(5,\); accepted with these logits: \(\.\.\., 4\)"),
        (((4, 5), (4,), ()), ValueError, r"columns: got shape \(\)"),
        (((2, 4, 5), (3, 4), (5,)), ValueError, r"got leading dimensions \(2,\), \(3,\), \(\)"),
    ],
)
def test_wrong_shapes(shapes, error, message):
    with pytest.raises(error, match=message):
        sm.transport(*(torch.ones(shape) for shape in shapes))


def test_wrong_types():
    with pytest.raises(TypeError, match=r"rows: got dtype torch\.int64"):
        sm.transport(torch.ones(2, 2), torch.ones(2, dtype=torch.long), torch.ones(2))
    with pytest.raises(TypeError, match=r"columns: got int"):
        sm.transport(torch.ones(2, 2), torch.ones(2), 1)
