"""Connections whose state is all outputs so far: attention over depth (AttnRes), and dense sums (MUDDFormer)."""

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import streammix as sm
from streammix.layers import DenseConnection, DepthConnection

DIM, DOUBLE = 6, torch.float64
KINDS = ["attnres", "attnres-block", "muddformer"]
Vector = list[float]


class Three(nn.Module):
    branch_inputs = 3

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.RMSNorm(DIM), nn.Linear(DIM, DIM)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return (self.linear(self.norm(queries)) * self.norm(keys)).tanh() + self.norm(values).sin()


def branches(count: int) -> list[nn.Module]:
    return [nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, DIM)) if k % 2 else Three() for k in range(count)]


def perturbed(module: nn.Module, size: float = 0.5) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


def changed(name: str, **options) -> sm.recipes.Recipe:
    return dataclasses.replace(sm.recipes.get(name), connection_options=options)


def run(branch: nn.Module, *inputs: Vector) -> Vector:
    """The branch of one token, which it treats apart from others."""
    return branch(*(torch.tensor(u, dtype=DOUBLE) for u in inputs)).tolist()


def normed(v: Vector) -> Vector:
    rms = math.sqrt(sum(a * a for a in v) / len(v) + 1e-6)
    return [a / rms for a in v]


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b))


def combined(weights: Vector, sources: list[Vector]) -> Vector:
    return [sum(w * v[c] for w, v in zip(weights, sources, strict=True)) for c in range(DIM)]


# --- attention over depth -------------------------------------------------------------------------------------------


def attended(query: Vector, sources: list[Vector]) -> Vector:
    e = [math.exp(dot(query, normed(v))) for v in sources]
    return combined([a / sum(e) for a in e], sources)


@pytest.mark.parametrize(("block", "count"), [(1, 5), (2, 5), (2, 6), (3, 7), (9, 4)])
def test_attention_residuals_token_by_token(block, count, seed):
    """h_l = sum_i softmax_i(w_l . RMSNorm(v_i)) v_i over the first state, the sums of full blocks and of this one."""
    parts = [nn.Linear(DIM, DIM).double() for _ in range(count)]
    stack = perturbed(sm.Stack(parts, DIM, recipe=changed("attnres", block=block)).double())
    x = torch.randn(3, DIM, dtype=DOUBLE)
    out, states = stack(x), stack.states(x)
    for t, token in enumerate(x.tolist()):
        full, current = [token], []
        for l, site in enumerate(stack):  # noqa: E741
            if l and l % block == 0:
                full.append(combined([1.0] * block, current))
                current = []
            sources = [*full, combined([1.0] * len(current), current)] if current else full
            h = attended(site.logits.weight.tolist(), sources) if l else token
            current.append(run(site.branch, h))
        sources = [*full, combined([1.0] * len(current), current)]
        for actual, expected in (
            (states[t], sources),
            (out[t], attended(stack.collapse.logits.weight.tolist(), sources)),
        ):
            torch.testing.assert_close(actual, torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=1e-12)


@pytest.mark.parametrize("recipe", ["attnres", "attnres-block"])
def test_zero_queries_are_the_mean_of_all_sources(recipe, seed):
    """The plain network's state over their number, which the norm at the beginning of a branch takes away."""
    parts, x = branches(9), torch.randn(2, 5, DIM)
    stack = sm.Stack(parts, DIM, recipe=recipe)
    plain, state = x, stack.begin(x)
    for site in stack:
        u, _ = site.connect(*state)
        torch.testing.assert_close(u, plain / len(state), rtol=1e-5, atol=1e-5)
        assert len(state) == site.sources
        weights = site.weights(*state)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(state)))
        state = site(state)
        plain = plain + site.branch(*[plain] * site.inputs)
    torch.testing.assert_close(stack.end(state), plain / len(state), rtol=1e-4, atol=1e-4)


def test_weights_of_depth_are_positive_and_sum_to_one(seed):
    stack, x = perturbed(sm.Stack(branches(5), DIM, recipe="attnres"), 3.0), torch.randn(4, DIM)
    state = stack.begin(x)
    for site in stack:
        weights = site.weights(*state)
        assert weights.shape == (4, len(state))
        assert (weights > 0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(4))
        state = site(state)


def test_parameters_of_depth_attention():
    """A query for every site but the first, and one for the end."""
    stack = sm.Stack([nn.Identity()] * 8, DIM, recipe="attnres")
    assert sum(p.numel() for p in stack.parameters()) == 8 * DIM


# --- dense sums -----------------------------------------------------------------------------------------------------


def plain_sums(logits: nn.Module, Xs: list[Vector], sources: list[Vector], ways: int) -> list[Vector]:
    """sum_j A_j source_j with A = GELU(RMSNorm(X_i) W1) W2 + a, way by way."""
    size = ways * len(sources)
    last = normed(Xs[-1])
    hidden = [dot(row, last) for row in logits.down.tolist()]
    hidden = [0.5 * a * (1 + math.erf(a / math.sqrt(2))) for a in hidden]
    A = [dot(row, hidden) + b for row, b in zip(logits.up.tolist(), logits.bias.tolist())]
    assert len(A) == len(hidden) == size
    return [combined(A[s * len(sources) : (s + 1) * len(sources)], sources) for s in range(ways)]


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("multiway", [True, False])
@pytest.mark.parametrize("count", [2, 6, 7])
def test_muddformer_token_by_token(norms, multiway, count, seed):
    """App. B: xq, xk, xv, xr = DA(Xs);  h = attention(xq, xk, xv) + xr;  X = mlp(h) + h.

    With norms (Eq. 10) DA sums Norm(X_j), and is followed by Norm(.) + X_i.
    """

    def sums(site: nn.Module, Xs: list[Vector], gains: list[Vector], ways: int) -> list[Vector]:
        if not norms:
            return plain_sums(site.logits, Xs, Xs, ways)
        gains.append(site.norm.weight.tolist())
        sources = [[g * a for g, a in zip(gain, normed(X))] for gain, X in zip(gains, Xs, strict=True)]
        made = plain_sums(site.logits, Xs, sources, ways)
        after = site.after.weight.tolist()
        return [[g * a + b for g, a, b in zip(gain, normed(u), Xs[-1])] for gain, u in zip(after, made, strict=True)]

    parts = [part.double() for part in branches(count)]
    recipe = changed("muddformer", multiway=multiway, norms=norms)
    stack = perturbed(sm.Stack(parts, DIM, recipe=recipe).double())
    gains = [stack[0].norm.weight.tolist()] if norms else []
    x = torch.randn(3, DIM, dtype=DOUBLE)
    out, states = stack(x), stack.states(x)
    for t, token in enumerate(x.tolist()):
        Xs, reads = [token], [token] * 4
        for l in range(0, count, 2):  # noqa: E741
            if l:
                made = sums(stack[l], Xs, gains, 4 if multiway else 1)
                reads = made if multiway else made * 4
            *inputs, r = reads
            h = [a + b for a, b in zip(r, run(stack[l].branch, *inputs))]
            if l + 1 < count:
                h = [a + b for a, b in zip(h, run(stack[l + 1].branch, h))]
            Xs.append(h)
        (expected,) = sums(stack.collapse, Xs, gains, 1)
        kept = [[g * a for g, a in zip(gain, normed(X))] for gain, X in zip(gains[:-1], Xs)] + Xs[-1:] if norms else Xs
        del gains[1:]
        torch.testing.assert_close(states[t], torch.tensor(kept, dtype=DOUBLE), rtol=0, atol=1e-11)
        torch.testing.assert_close(out[t], torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=1e-11)


@pytest.mark.parametrize("multiway", [True, False])
@pytest.mark.parametrize(("block", "norms"), [(1, False), (2, False), (3, False), (2, True)])
@pytest.mark.parametrize("dynamic", [None, False])
def test_dense_sums_start_as_the_plain_residual_network_to_the_bit(multiway, block, norms, dynamic, seed):
    parts, x = branches(7), torch.randn(2, 5, DIM)
    plain = x
    for part in parts:
        plain = plain + (part(plain, plain, plain) if isinstance(part, Three) else part(plain))
    recipe = changed("muddformer", multiway=multiway, block=block, norms=norms)
    assert torch.equal(sm.Stack(parts, DIM, recipe=recipe, dynamic=dynamic)(x), plain)


def test_static_single_sums_are_denseformer(seed):
    """X_i = block(Y_{i-1}),  Y_i = sum_j a_ij X_j: arXiv 2402.02622, Eq. 4 of MUDDFormer."""
    parts = [part.double() for part in branches(4)]
    recipe = changed("muddformer", multiway=False)
    stack = perturbed(sm.Stack(parts, DIM, recipe=recipe, dynamic=False).double())
    x = torch.randn(3, DIM, dtype=DOUBLE)
    X, y = [x], x
    for index, logits in enumerate((stack[2].logits, stack.collapse.logits)):
        h = y + parts[2 * index](y, y, y)
        X.append(h + parts[2 * index + 1](h))
        y = sum(a * source for a, source in zip(logits.bias, X, strict=True))
    torch.testing.assert_close(stack(x), y)
    assert sum(p.numel() for p in stack.parameters()) == sum(p.numel() for q in parts for p in q.parameters()) + 2 + 3


def test_parameters_of_dense_sums():
    """W1 (C, K), W2 (K, K) and a (K) with K = 4 (i + 1) after block i, and one way at the end."""
    blocks, C = 5, 24
    stack = sm.Stack([nn.Identity(), nn.Identity()] * blocks, C, recipe=changed("muddformer", inputs=(3, 1)))
    sizes = [4 * (i + 1) for i in range(1, blocks)] + [blocks + 1]
    assert sum(p.numel() for p in stack.parameters()) == sum(K * (C + K + 1) for K in sizes)


@pytest.mark.parametrize("dynamic", [None, False])
def test_norms_around_sums_are_learned_and_reset(dynamic, seed):
    recipe = changed("muddformer", norms=True)
    stack = sm.Stack(branches(6), DIM, recipe=recipe, dynamic=dynamic).double()
    plain = sum(p.numel() for p in sm.Stack(branches(6), DIM, recipe="muddformer", dynamic=dynamic).parameters())
    assert sum(p.numel() for p in stack.parameters()) == plain + (4 + 2 * 4 + 1) * DIM  # of 4 sources, 2 x 4 + 1 sums
    optimizer = torch.optim.SGD(stack.parameters(), lr=0.1)
    seen = set()
    for _ in range(3):
        optimizer.zero_grad()
        stack(torch.randn(4, 5, DIM, dtype=DOUBLE)).mul(torch.randn(DIM, dtype=DOUBLE)).sum().backward()
        seen |= {name for name, p in stack.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert seen == {name for name, _ in stack.named_parameters()}
    stack.reset_parameters()
    assert (stack[0].norm.weight == 1).all()
    assert (stack[2].after.weight == 1e-3).all()
    assert not stack[2].logits.bias.any()
    x = torch.randn(2, DIM, dtype=DOUBLE, requires_grad=True)
    small = perturbed(sm.Stack([nn.Tanh()] * 3, DIM, recipe=recipe, dynamic=dynamic).double())
    assert torch.autograd.gradcheck(small, (x,))
    assert {p.dtype for n, p in stack.bfloat16().named_parameters() if ".branch." not in n} == {torch.float64}


def test_only_the_first_site_of_a_block_makes_sums(seed):
    stack = sm.Stack(branches(4), DIM, recipe="muddformer")
    state = stack.begin(torch.randn(3, DIM))
    for site in stack:
        if site.site == 2:
            u, _ = site.connect(*state)
            assert len(u) == 3
            assert site.weights(*state).shape == (3, 4, 2)
        else:
            assert isinstance(site.connect(*state)[0], Tensor)
            with pytest.raises(ValueError, match=rf"site: number {site.site} reads the last state alone"):
                site.weights(*state)
        state = site(state)
    with pytest.raises(TypeError, match=r"ending: that of dense connections depends on how many sites there are"):
        DenseConnection.ending(stack.recipe, DIM, 1)


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", KINDS)
def test_states_grow_and_arguments_and_further_outputs_pass(recipe, seed):
    def branch(u: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return scale * u.tanh(), u.sum()

    stack = sm.Stack([branch] * 4, DIM, recipe=recipe)
    x = torch.randn(2, DIM)
    y, further = stack(x, 2.0)
    assert y.shape == x.shape
    assert [len(f) for f in further] == [1] * 4
    state, one = stack[0](stack.begin(x), 2.0)
    assert torch.equal(one, further[0][0])
    assert [t.shape for t in state] == [x.shape] * 2
    for site, beside in zip(list(stack)[1:], further[1:]):
        state, one = site(state, scale=2.0)
        assert torch.equal(one, beside[0])
    assert torch.equal(stack.end(state), y)


@pytest.mark.parametrize("recipe", KINDS)
def test_no_stack_of_sources_is_kept_for_the_backward_pass(recipe, seed):
    """Each output, what its branch keeps, and the weights: under three states a site, where stacks would add more."""
    count, kept, held = 24, {}, []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)  # or its memory would be used again
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    stack = sm.Stack([torch.sin] * count, 64, recipe=recipe)
    x = torch.randn(128, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        stack(x)
    assert sum(site.sources for site in stack) > 3 * count
    assert sum(kept.values()) < 3 * count * x.nbytes


@pytest.mark.parametrize("recipe", KINDS)
def test_mixed_precision(recipe, seed):
    """Sources keep their dtype, weights are float32, sums are rounded once."""
    stack = perturbed(sm.Stack(branches(4), DIM, recipe=recipe), 0.1)
    x = torch.randn(2, 5, DIM)
    exact = stack(x)
    with torch.autocast("cpu", torch.bfloat16):
        state = stack.run(stack.begin(x))
    assert {t.dtype for t in state} == {torch.float32}
    torch.testing.assert_close(stack.end(state), exact, rtol=0, atol=0.1)
    stack.bfloat16()
    state = stack.run(stack.begin(x.bfloat16()))
    assert {t.dtype for t in state} == {torch.bfloat16}
    assert stack.end(state).dtype == torch.bfloat16
    if recipe != "muddformer":
        assert stack[3].weights(*state[: stack[3].sources]).dtype == torch.float32


@pytest.mark.parametrize("recipe", KINDS)
def test_channels_first_empty_batches_and_copies(recipe, seed):
    convolutions = [nn.Conv1d(DIM, DIM, 3, padding=1) for _ in range(5)]
    stack = perturbed(sm.Stack(convolutions, DIM, recipe=recipe, channel_dim=1), 0.2)
    x = torch.randn(2, DIM, 7)
    out = stack(x)
    assert out.shape == x.shape
    for twin in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert torch.equal(twin(x), out)
    assert torch.allclose(stack(x.mT.contiguous().mT), out, atol=1e-6)
    assert stack(torch.randn(0, DIM, 7)).shape == (0, DIM, 7)


@pytest.mark.parametrize("recipe", KINDS)
def test_single_sites_by_hand(recipe, seed):
    """As a model writes it that cannot use a Stack: connect, branch, finish."""
    parts = [nn.Linear(DIM, DIM) for _ in range(4)]
    stack = perturbed(sm.Stack(parts, DIM, recipe=recipe))
    kind = type(stack[0])
    sites = [kind(None, DIM, 1, recipe, site=k) for k in range(4)]
    for site, twin in zip(sites, stack):
        own = {name: value for name, value in twin.state_dict().items() if not name.startswith("branch.")}
        site.load_state_dict(own)
    end = sites[-1].ending_here()
    end.load_state_dict(stack.collapse.state_dict())
    x = torch.randn(3, DIM)
    state = sites[0].begin(x)
    for site, part in zip(sites, parts):
        u, finish = site.connect(*state)
        state = finish(part(u))
    assert torch.equal(end(state), stack(x))


@pytest.mark.refusal
@pytest.mark.parametrize("recipe", KINDS)
def test_what_they_refuse(recipe):
    kind = sm.recipes.get(recipe).connection
    for options, message in (
        ({"streams": 4}, rf"streams: got 4; accepted with {kind} connections: 1"),
        ({"activation": nn.ReLU()}, rf"activation: got ReLU; accepted with {kind} connections: None"),
        ({"manifold": "birkhoff"}, rf"manifold: got Birkhoff; accepted: identity, because {kind} connections"),
        ({"recompute": 2}, rf"recompute: recipe '{recipe}' has '{kind}' connections"),
    ):
        with pytest.raises(ValueError, match=message):
            sm.Stack([nn.Tanh()] * 3, DIM, recipe=recipe, **options)
    for block in (0, True, 1.5):
        with pytest.raises(ValueError, match=rf"block: got {block}; accepted: integers >= 1"):
            sm.Stack([nn.Tanh()], DIM, recipe=changed(recipe, block=block))
    stack = sm.Stack([nn.Tanh(), nn.Linear(DIM, DIM + 1)], DIM, recipe=recipe)
    with pytest.raises(ValueError, match=r"branch: Linear returned shape \(2, 7\); accepted: \(2, 6\)"):
        stack(torch.zeros(2, DIM))
    with pytest.raises(ValueError, match=r"x: got a state of 1 tensors; accepted by site 1: 2"):
        stack[1](stack.begin(torch.zeros(2, DIM)))
    with pytest.raises(ValueError, match=r"x: got a state of shapes \(2, 6\), \(3, 6\); accepted: all of one shape"):
        stack[1]((torch.zeros(2, DIM), torch.zeros(3, DIM)))
    with pytest.raises(ValueError, match=r"x: got shape \(2, 7\); accepted: \(\.\.\., 6\)"):
        stack(torch.zeros(2, DIM + 1))


@pytest.mark.refusal
def test_what_only_one_refuses():
    with pytest.raises(ValueError, match=r"multiway: got 1; accepted: True, False"):
        sm.Stack([nn.Tanh()], DIM, recipe=changed("muddformer", multiway=1))
    with pytest.raises(ValueError, match=r"norms: got 1; accepted: True, False"):
        sm.Stack([nn.Tanh()], DIM, recipe=changed("muddformer", norms=1))
    with pytest.raises(ValueError, match=r"logits: got 'static'; depth-attention connections accept query"):
        sm.Stack([nn.Tanh()], DIM, recipe="attnres", dynamic=False)
    with pytest.raises(ValueError, match=r"connection is 'depth-attention'; HyperConnection accepts"):
        sm.HyperConnection(None, DIM, recipe="attnres", site=0)
    assert isinstance(DepthConnection(None, DIM, 1, "attnres", site=0), DepthConnection)
