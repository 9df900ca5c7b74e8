"""Each kind of connection against its paper's formula, written here another way."""

import dataclasses

import pytest
import torch
from torch import nn

import streammix as sm
from streammix.layers.connections.temporal import TemporalBasis
from streammix.layers.generators import CP, PerSegment, PerStream, Start
from streammix.ops.eager.temporal import convolved

DOUBLE = torch.float64


def perturbed(module, size=0.5):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


def count(recipe, dim=768, streams=None, sites=1):
    stack = sm.Stack([nn.Identity()] * sites, dim, streams, recipe)
    return sum(p.numel() for p in stack.parameters())


# --- fractions and segments -------------------------------------------------------------------------------------------


def test_frac_formula(seed):
    """h_0 = Y'H, H' = B o T(h_0) + A'H, with B = s_b tanh(H W_b)' + B and so on; H = LayerNorm(h), m = 3."""
    branch = nn.Linear(12, 12).double()
    stack = perturbed(sm.Stack([branch], 12, 3, "frac").double())
    logits = stack.sites[0].logits
    x = torch.randn(5, 12, dtype=DOUBLE)
    h = x.view(5, 3, 4)
    z = nn.functional.layer_norm(h, (4,), logits.norm.weight, logits.norm.bias, 1e-5)
    W_y, W_b, W_a = logits.weight.split((3, 1, 3))
    Y, B, A_by_row_of_H = logits.bias.split((9, 3, 9))
    s_a, s_b = logits.gate
    Y = s_a * torch.tanh(z @ W_y.T) + Y.view(3, 3)
    B = s_b * torch.tanh(z @ W_b.T).squeeze(-1) + B
    A = s_a * torch.tanh(z @ W_a.T) + A_by_row_of_H.view(3, 3).T
    y = branch((Y.mT @ h).reshape(5, 12)).view(5, 3, 4)
    torch.testing.assert_close(stack(x), (B.unsqueeze(-1) * y + A.mT @ h).reshape(5, 12))


@pytest.mark.parametrize("segments", [1, 2, 3, 6])
def test_dghc_formula(segments, seed):
    """H' = B'T(A_r'H) + A_c'H with B(H) = S_b tanh(H W_b / tau)' + B, A(H) = S_a tanh(H W_a / tau) + A, n = 6."""
    n, m, C = 6, segments, 12
    recipe = dataclasses.replace(sm.recipes.get("dghc"), connection_options={"segments": m})
    branch = nn.Linear(C, C).double()
    site = perturbed(sm.Stack([branch], C, n, recipe).double()).sites[0]
    w = C // m
    h, logits = torch.randn(5, n, w, dtype=DOUBLE), site.logits
    z = nn.functional.layer_norm(h, (w,), logits.norm.weight, logits.norm.bias, 1e-5) / w**0.5
    W_r, W_b, W_c = logits.weight.split((m, m, n))
    read, write, carry = logits.bias.split((n * m, n * m, n * n))
    s_a, s_b = logits.gate
    A_r = s_a * torch.tanh(z @ W_r.T) + read.view(n, m)
    B = (s_b * torch.tanh(z @ W_b.T) + write.view(n, m)).mT
    A_c = s_a * torch.tanh(z @ W_c.T) + carry.view(n, n).T
    y = branch((A_r.mT @ h).reshape(5, C)).view(5, m, w)
    torch.testing.assert_close(site(h), B.mT @ y + A_c.mT @ h)


@pytest.mark.parametrize("kind", ["static", "per-stream"])
def test_one_segment_to_a_branch_is_a_hyper_connection(kind, seed):
    branches = [nn.Linear(8, 8).double() for _ in range(3)]
    changes = {"connection_options": {"segments": 1}, "collapse": "sum", "logits": kind}
    generalised = sm.Stack(branches, 8, 4, dataclasses.replace(sm.recipes.get("dghc"), **changes)).double()
    hyper = sm.Stack(branches, 8, 4, dataclasses.replace(sm.recipes.get("hc"), logits=kind)).double()
    x = torch.randn(2, 5, 8, dtype=DOUBLE)
    assert torch.equal(generalised(x), hyper(x))
    perturbed(hyper)
    for ours, theirs in zip(generalised.sites, hyper.sites):
        ours.load_state_dict(theirs.state_dict())
        if kind == "per-stream":  # the dynamic part of HC has no temperature
            ours.logits.weight.data.mul_(ours.temperature)
    torch.testing.assert_close(generalised(x), hyper(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["static", "per-stream"])
def test_as_many_segments_to_a_branch_as_there_are_is_a_frac_connection(kind, seed):
    """Its write matrix is diagonal: its dynamic part has no counterpart off the diagonal, so W_b = 0 here."""
    branches = [nn.Linear(8, 8).double() for _ in range(3)]
    changes = {"connection_options": {"segments": 4}, "logits": kind}
    generalised = sm.Stack(branches, 8, 4, dataclasses.replace(sm.recipes.get("dghc"), **changes)).double()
    frac = sm.Stack(branches, 8, 4, dataclasses.replace(sm.recipes.get("frac"), logits=kind)).double()
    x = torch.randn(2, 5, 8, dtype=DOUBLE)
    torch.testing.assert_close(generalised(x), frac(x), rtol=1e-14, atol=1e-14)
    perturbed(frac)
    with torch.no_grad():
        for ours, theirs in zip(generalised.sites, frac.sites):
            read, write, carry = theirs.logits.bias.split((16, 4, 16))
            ours.logits.bias.copy_(torch.cat([read, write.diag().flatten(), carry]))
            if kind == "per-stream":
                ours.logits.norm.load_state_dict(theirs.logits.norm.state_dict())
                ours.logits.gate.copy_(theirs.logits.gate)
                theirs.logits.weight[4] = 0
                W_y, _, W_a = theirs.logits.weight.split((4, 1, 4))
                ours.logits.weight.copy_(torch.cat([W_y, torch.zeros(4, 2, dtype=DOUBLE), W_a]) * ours.temperature)
    torch.testing.assert_close(generalised(x), frac(x), rtol=1e-12, atol=1e-12)


def test_per_stream_logits(seed):
    """HC's formulas, stream by stream, and one temperature for all of them."""
    coefficients = PerStream(8, 5, 1e-5, start=Start.at(torch.randn(35), 0.5, 0.3))
    with torch.no_grad():
        coefficients.gate[1] = 0.7
    w_m, w_b, *W_r = coefficients.weight
    A, B, A_r = coefficients.bias.split((5, 5, 25))
    x = torch.randn(3, 5, 8)
    read, write, res = coefficients(x)
    for i in range(5):
        z = nn.functional.layer_norm(x[:, i], (8,), eps=1e-5)
        torch.testing.assert_close(read[:, i], 0.3 * (z @ w_m).tanh() + A[i])
        torch.testing.assert_close(write[:, i], 0.7 * (z @ w_b).tanh() + B[i])
        for j in range(5):
            expected = 0.3 * (z @ W_r[j]).tanh() + A_r.view(5, 5)[j, i]
            torch.testing.assert_close(res.view(3, 5, 5)[:, j, i], expected)
    halved = PerSegment(8, 5, 1, 1, 2.0, 1e-5, start=coefficients.start)
    halved.load_state_dict(coefficients.state_dict())
    with torch.no_grad():
        halved.weight.mul_(2)
    for a, b in zip(halved(x), (read, write, res)):
        torch.testing.assert_close(a, b)


def test_an_over_wide_state_starts_as_it_is(seed):
    stack = sm.Stack([nn.Identity()], 8, 6, "ghc")
    wide = torch.randn(3, 12)
    assert torch.equal(stack.begin(wide).flatten(-2), wide)
    x = torch.randn(3, 8)
    assert torch.equal(stack.begin(x).flatten(-2), torch.cat([x, x[:, :4]], -1))
    assert torch.equal(stack.end(stack.begin(x)), x)
    assert stack(wide).shape == (3, 8)


# --- sparse -----------------------------------------------------------------------------------------------------------


def test_sparse_formula(seed):
    """Token by token: 5 streams, of which stream 0 and the router's best 2 are active, and one filter of 3 tokens."""
    options = {"active": 3, "fixed": 1, "temporal": ((3,),)}
    recipe = dataclasses.replace(sm.recipes.get("xhc"), connection_options=options)
    branch = nn.Linear(4, 4).double()
    site = perturbed(sm.Stack([branch], 4, 5, recipe).double()).sites[0]
    x = torch.randn(6, 5, 4, dtype=DOUBLE)
    out = site(x)
    written = []
    for t in range(6):
        flat = x[t].flatten()
        pre = torch.sigmoid(
            site.reads.gate[0] * site.reads.weight @ (flat / (flat.square().mean() + 1e-6).sqrt()) + site.reads.bias
        )
        y = branch((pre.unsqueeze(-1) * x[t]).sum(0))
        written.append(y)
        g = sum(site.basis.filters[0][i] * written[t - i] for i in range(3) if t >= i)
        v = g - (g @ y) / (y @ y) * y
        centred = (flat - flat.mean()) / (flat.var(correction=0) + 1e-6).sqrt()
        scores = torch.sigmoid(site.router.weight @ centred + site.router.bias)
        active = [0, *sorted(1 + j for j in scores[1:].argsort(descending=True)[:2].tolist())]
        flat = x[t, active].flatten()
        m = site.logits.weight @ (flat / (flat.square().mean() + 1e-6).sqrt())
        gate = torch.cat([site.logits.gate[:1].expand(6), site.logits.gate[1:].expand(9)])
        post, res = (gate * m + site.logits.bias).split((6, 9))
        H = sm.sinkhorn(res.view(3, 3), rounds=20, recipe="mhc")
        post = 2 * torch.sigmoid(post.view(3, 2))
        expected = x[t].clone()
        for row, j in enumerate(active):
            mixed = sum(H[row, col] * x[t, i] for col, i in enumerate(active))
            expected[j] = mixed + scores[j] * (post[row, 0] * y + post[row, 1] * v)
        torch.testing.assert_close(out[t], expected)


def test_rows_of_a_sparse_mix_are_at_most_one(seed):
    recipe = dataclasses.replace(sm.recipes.get("xhc"), manifold="implicit-sinkhorn", manifold_options={"rounds": 2})
    site = perturbed(sm.Stack([nn.Identity()], 8, recipe=recipe), 2.0).sites[0]
    active = torch.randn(200, 4, 8)
    raw = site.manifold(site.logits(active)[1]).sum(-1)
    H = site.active_coefficients(active)[1].sum(-1)
    assert raw.max() > 1.01
    torch.testing.assert_close(H, raw.clamp(max=1))


def test_a_site_touches_its_active_streams_only(seed):
    site = perturbed(sm.Stack([nn.Tanh()], 8, recipe="xhc"), 0.2).sites[0]
    x = torch.randn(50, 16, 8)
    index, scores = site.route(x)
    assert (index[:, :2] == torch.arange(2)).all()
    assert len(index.unique()) > 8  # tokens are routed apart
    assert (index.diff(dim=-1) > 0).all()
    assert ((scores > 0) & (scores < 1)).all()
    changed = (site(x) != x).any(-1)
    assert torch.equal(changed.nonzero()[:, 1].view(50, 4), index)


def test_a_new_router_routes_tokens_apart(seed):
    site = sm.Stack([nn.Tanh()], 32, recipe="xhc").sites[0]
    index, scores = site.route(torch.randn(500, 16, 32))
    used = torch.bincount(index[:, 2:].flatten(), minlength=16)[2:]
    assert used.min() > 0
    assert (scores - torch.tensor(1.0).sigmoid()).abs().max() < 1e-5


@pytest.mark.parametrize("time_axis", [-2, -3, 0, 1])
def test_filters_see_the_past_only(time_axis, seed):
    basis = perturbed(TemporalBasis(6, (2, 5), time_axis))
    y = torch.randn(7, 8, 6)
    axis = time_axis % 3
    later = y.clone()
    later.narrow(axis, 4, 3).add_(1)
    before, after = basis(y).movedim(axis, 0), basis(later).movedim(axis, 0)
    assert torch.equal(before[:4], after[:4])
    assert not torch.isclose(before[4:], after[4:]).all()


def test_the_basis_is_orthogonal_and_spans_the_filters(seed):
    basis = perturbed(TemporalBasis(16, (4, 8, 12)).double())
    y = torch.randn(3, 20, 16, dtype=DOUBLE)
    V = basis(y)
    assert V.shape == (3, 20, 4, 16)
    assert torch.equal(V[..., 0, :], y)
    gram = V @ V.mT
    norms = gram.diagonal(dim1=-2, dim2=-1)
    off = gram - norms.diag_embed()
    assert (off.abs() <= 1e-12 * (norms.unsqueeze(-1) * norms.unsqueeze(-2)).sqrt()).all()
    g = convolved(y, basis.filters[2], 20)
    U = V / norms.sqrt().unsqueeze(-1)
    torch.testing.assert_close(((g.unsqueeze(-2) * U).sum(-1, keepdim=True) * U).sum(-2), g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dependent_filters_stay_finite(dtype, seed):
    """Filters of a constant text are multiples of it: nothing is left of them, nor is it divided by."""
    basis = TemporalBasis(6, (1, 2, 3)).to(dtype)
    with torch.no_grad():
        for weight in basis.filters:
            weight.fill_(0.3)
    for y in (torch.ones(9, 6), torch.zeros(9, 6), 1e-15 * torch.randn(9, 6)):
        y = y.to(dtype).requires_grad_()
        V = basis(y)
        assert V.isfinite().all()
        if y.std() == 0:
            assert V[:, 1:].abs().max() <= 1e-6
        for gradient in torch.autograd.grad(V.sum(), [y, *basis.parameters()]):
            assert gradient.isfinite().all()
    basis(torch.randn(9, 6).bfloat16()).sum().backward()
    assert all(p.grad.isfinite().all() for p in basis.parameters())


# --- single pass ------------------------------------------------------------------------------------------------------


def test_deepseek_v4_1_formula(seed):
    """The released model's wiring, from its raw parameters, with the mixing matrix applied as it stores it."""
    n, C = 4, 6
    branches = [nn.Linear(C, C).double() for _ in range(3)]
    stack = sm.Stack(branches, C, recipe="deepseek-v4.1").double()
    perturbed(stack, 0.2)
    x = torch.randn(2, 5, C, dtype=DOUBLE)
    X = x.unsqueeze(-2).repeat(1, 1, n, 1)
    pre = torch.zeros(2, 5, n, dtype=DOUBLE)
    pre[..., 0] = 1
    for site, branch in zip(stack.sites, branches):
        flat = X.flatten(-2)
        mixes = flat @ site.logits.weight.T * torch.rsqrt(flat.square().mean(-1, keepdim=True) + 1e-20)
        scale, base = site.logits.gate, site.logits.bias
        following = torch.sigmoid(mixes[..., :n] * scale[0] + base[:n]) + 1e-6
        post = 2 * torch.sigmoid(mixes[..., n : 2 * n] * scale[1] + base[n : 2 * n])
        K = (mixes[..., 2 * n :] * scale[2] + base[2 * n :]).unflatten(-1, (n, n)).softmax(-1) + 1e-6
        K = K / (K.sum(-2, keepdim=True) + 1e-6)
        for _ in range(19):
            K = K / (K.sum(-1, keepdim=True) + 1e-6)
            K = K / (K.sum(-2, keepdim=True) + 1e-6)
        y = branch((pre.unsqueeze(-1) * X).sum(-2))
        X = post.unsqueeze(-1) * y.unsqueeze(-2) + torch.einsum("...jk,...jc->...kc", K, X)
        pre = following
    torch.testing.assert_close(stack(x), (pre.unsqueeze(-1) * X).sum(-2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stack.states(x), X, rtol=1e-12, atol=1e-12)


def test_single_pass_sites_can_be_traced(seed):
    stack, x = perturbed(sm.Stack([nn.Tanh(), nn.Sigmoid()], 8, recipe="deepseek-v4.1"), 0.2), torch.randn(5, 8)
    with sm.diagnostics.trace(stack, states=True) as trace:
        out = stack(x)
    first, second = trace.sites()
    assert torch.equal(first.pre, torch.eye(4)[0].expand(5, 4))
    assert torch.equal(second.state, stack.states(x))
    made, _, _ = stack.sites[0].coefficients(sm.expand(x, 4))
    assert torch.equal(second.pre, made)
    torch.testing.assert_close(
        torch.einsum("bn,bnc->bc", stack.sites[1].coefficients(first.state)[0], second.state), out
    )
    assert torch.equal(out, stack(x))


@pytest.mark.parametrize(("recipe", "kind"), [("frac", "frac"), ("ghc", "generalised"), ("xhc", "sparse")])
def test_other_connections_have_nothing_to_trace(recipe, kind):
    stack = sm.Stack([nn.Tanh()], 8, recipe=recipe)
    with (
        pytest.raises(ValueError, match=rf"Stack of which the maps of {kind} connections.*with HyperConnections"),
        sm.diagnostics.trace(stack),
    ):
        pass


# --- TEMPER -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_cp_logits_are_contractions_of_full_tensors(rank, seed):
    n, C = 3, 7
    cp = CP(C, n, n * n, rank, 1e-6, start=Start.at(torch.randn(n * n + 2 * n), weight_std=0.7, gate=0.3)).double()
    x = torch.randn(4, 5, n, C, dtype=DOUBLE)
    z = x / (x.square().mean((-2, -1), keepdim=True) + 1e-6).sqrt()
    A, B = (factor.unflatten(-1, (3, rank)) for factor in (cp.stream, cp.channel))
    bias = cp.bias.split((n, n, n * n))
    for kind, logits in enumerate(cp(x)[:2]):
        W = torch.einsum("sr,cr,ir->sci", A[:, kind], B[:, kind], cp.out[kind])
        torch.testing.assert_close(logits, cp.gate[kind] * torch.einsum("...sc,sci->...i", z, W) + bias[kind])
    W = torch.einsum("sr,cr,ir,jr->scij", A[:, 2], B[:, 2], cp.out[2], cp.out[3])
    Z = torch.einsum("...sc,scij->...ij", z, W)
    torch.testing.assert_close(cp(x)[2], (cp.gate[2] * Z).flatten(-2) + bias[2])
    assert torch.linalg.matrix_rank(Z, rtol=1e-9).max() <= rank


def test_a_frozen_gate_is_a_constant_of_cp_too(seed):
    recipe = dataclasses.replace(sm.recipes.get("temper"), freeze_mix_gate=True, manifold="stiefel")
    site = sm.HyperConnection(None, 8, recipe=recipe, site=0)
    assert site.logits.gate.shape == (2,)
    free = sm.HyperConnection(None, 8, recipe=dataclasses.replace(recipe, freeze_mix_gate=False), site=0)
    state = site.state_dict() | {"logits.gate": torch.tensor([0.01, 0.01, 0.01])}
    free.load_state_dict(state)
    x = torch.randn(5, 4, 8)
    for a, b in zip(site.coefficients(x), free.coefficients(x)):
        torch.testing.assert_close(a, b)


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameter_counts():
    d = 768
    static_frac = dataclasses.replace(sm.recipes.get("frac"), logits="static")
    for m in (1, 2, 4, 8):
        assert count(static_frac, d, m) == m * (2 * m + 1)
        assert count("frac", d, m) == 2 * d // m + d // m * (2 * m + 1) + m * (2 * m + 1) + 2
    n, m = 8, 4
    assert count("ghc", d) == n * (2 * m + n)
    assert count("dghc", d) == 2 * d // m + d // m * (2 * m + n) + n * (2 * m + n) + 2
    assert count("deepseek-v4.1", d, sites=3) == 3 * count("mhc", d)  # no head
    for n, rank in ((4, 2), (8, 3)):
        recipe = dataclasses.replace(sm.recipes.get("temper"), rank=rank)
        assert count(recipe, d, n) == rank * (3 * n + 3 * d + 4 * n) + n * n + 2 * n + 3


def test_parameter_counts_of_xhc():
    """(4 N^2 + 2 k^3 + k^2 + k^2 K + sum of filters) C a block, 1256 C at N = 16, k = 4; and biases and gates."""
    C, N, k, K = 64, 16, 4, 4
    matrices = (4 * N**2 + 2 * k**3 + k**2 + k**2 * K + 24) * C
    assert matrices == 1256 * C
    vectors = 2 * 2 * N + 2 * k**2 + k + k * K + 2 * 3
    assert count("xhc", C, sites=2) == matrices + vectors
