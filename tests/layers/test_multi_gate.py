"""Multi-Gate Residuals: attention over streams, and gates that move each towards the branch's output."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

import streammix as sm
from streammix.layers import MultiGateConnection

DIM, DOUBLE = 5, torch.float64
Vector = list[float]


def perturbed(module: nn.Module, size: float = 0.5) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


def mgr(**options) -> sm.recipes.Recipe:
    return dataclasses.replace(sm.recipes.get("mgr"), connection_options=options)


def scores(weight: Tensor, streams: list[Vector]) -> Vector:
    """w . RMSNorm(s_i) / sqrt(d)."""
    made = []
    for s in streams:
        rms = math.sqrt(sum(a * a for a in s) / DIM + 1e-6)
        made.append(sum(w * a / rms for w, a in zip(weight.tolist(), s)) / math.sqrt(DIM))
    return made


def softmax(z: Vector) -> Vector:
    e = [math.exp(a) for a in z]
    return [a / sum(e) for a in e]


def pooled(logits: nn.Module, streams: list[Vector]) -> Vector:
    weights = softmax(scores(logits.weight, streams)) if len(streams) > 1 else [1.0]
    return [sum(a * s[c] for a, s in zip(weights, streams)) for c in range(DIM)]


@pytest.mark.parametrize("gate", ["independent", "competitive"])
@pytest.mark.parametrize(("streams", "count"), [(1, 3), (2, 5), (4, 9), (4, 2), (8, 5)])
def test_formula_token_by_token(gate, streams, count, seed):
    """Outputs become streams until there are n; then s_i' = (1 - b_i) s_i + b_i y."""
    parts = [nn.Linear(DIM, DIM).double() for _ in range(count)]
    stack = perturbed(sm.Stack(parts, DIM, streams, mgr(gate=gate)).double())
    x = torch.randn(3, DIM, dtype=DOUBLE)
    out, states = stack(x), stack.states(x)
    for t, token in enumerate(x.tolist()):
        s = [token]
        for site in stack:
            y = site.branch(torch.tensor(pooled(site.logits, s), dtype=DOUBLE)).tolist()
            if len(s) < streams:
                s.append(y)
                continue
            z, bias = scores(site.gates.weight, s), site.gates.bias.tolist()
            if gate == "independent":
                b = [1 / (1 + math.exp(-a - c)) for a, c in zip(z, bias, strict=True)]
            else:
                b = softmax([*bias, *z])[1:]
            s = [[(1 - g) * a + g * c for a, c in zip(one, y)] for g, one in zip(b, s, strict=True)]
        missing = [[0.0] * DIM] * (streams - len(s))
        torch.testing.assert_close(states[t], torch.tensor(s + missing, dtype=DOUBLE), rtol=0, atol=1e-12)
        expected = torch.tensor(pooled(stack.collapse.logits, s), dtype=DOUBLE)
        torch.testing.assert_close(out[t], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate", ["independent", "competitive"])
@pytest.mark.parametrize(("depth", "streams"), [(None, 4), (24, 4), (48, 4), (8, 4), (100, 8)])
def test_gates_start_as_published(gate, depth, streams, seed):
    """At 1 / (sqrt(L / 21) (e^3 + 1)) for L sites with gates, whatever the number of streams."""
    recipe = mgr(gate=gate) if depth is None else mgr(gate=gate, depth=depth)
    site = MultiGateConnection(None, DIM, streams, recipe, site=streams)
    _, post, _ = site.coefficients(torch.randn(7, streams, DIM))
    gated = 21 if depth is None else depth - streams + 1
    torch.testing.assert_close(post, torch.full_like(post, 1 / (math.sqrt(gated / 21) * (math.exp(3) + 1))))
    if gate == "competitive":  # Eq. 14
        eq14 = math.log(math.sqrt(gated / 21) * (math.exp(3) + 1) - streams)
        assert site.gates.bias.item() == pytest.approx(eq14)


def test_streams_never_outgrow_what_they_are_made_of(seed):
    """A convex combination of the first state and of outputs, however large the parameters."""
    outputs = []

    def branch(u: Tensor) -> Tensor:
        outputs.append(100 * u.tanh())
        return outputs[-1]

    stack = perturbed(sm.Stack([branch] * 12, DIM, recipe="mgr"), 5.0)
    x = torch.randn(50, DIM)
    largest = torch.stack([stack.states(x).norm(dim=-1).amax(-1)])
    bound = torch.stack([x, *outputs]).norm(dim=-1).amax(0)
    assert (largest <= bound * (1 + 1e-5)).all()


def test_every_matrix_keeps_its_promises(seed):
    stack, x = perturbed(sm.Stack([nn.Linear(DIM, DIM)] * 7, DIM, recipe="mgr"), 2.0), torch.randn(9, DIM)
    with sm.diagnostics.trace(stack, states=True) as trace:
        stack(x)
    state = stack.begin(x)
    for site, visit in zip(stack, trace.sites(), strict=True):
        promised = site.guarantees
        assert promised.nonnegative
        assert promised.nonexpansive
        assert {promised.rows, promised.columns, promised.orthogonal} == {False}
        assert (visit.res >= 0).all()
        assert torch.linalg.matrix_norm(visit.res, 2).max() <= 1
        torch.testing.assert_close(visit.pre.sum(-1), torch.ones(9))
        y = site.branch(sm.read(state, visit.pre))
        state = sm.write(state, y, visit.post, visit.res)
        torch.testing.assert_close(visit.state, state)
    assert sm.diagnostics.gains_by_depth(trace.res).forward.max() <= 1


@pytest.mark.parametrize("gate", ["independent", "competitive"])
def test_gradients(gate, seed):
    stack = perturbed(sm.Stack([nn.Tanh(), nn.Sigmoid(), torch.sin], 4, 2, mgr(gate=gate)).double())
    x = torch.randn(2, 4, dtype=DOUBLE, requires_grad=True)
    names, parameters = zip(*stack.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(stack, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters))
    assert torch.autograd.gradgradcheck(call, (x, *parameters), fast_mode=True)


def test_parameter_counts():
    """w for every site but the first and for the end, w' and n biases for those with gates."""
    C, n, count = 32, 4, 9
    stack = sm.Stack([nn.Identity()] * count, C, recipe="mgr")
    assert sum(p.numel() for p in stack.parameters()) == count * C + (count - n + 1) * (C + n)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sm.Stack([nn.Tanh()], DIM, 1, mgr(gate="both")), r"gate: got 'both'; accepted: independent, compet"),
        (lambda: sm.Stack([nn.Tanh()] * 4, DIM, recipe=mgr(depth=0)), r"depth: got 0; accepted: integers >= 1"),
        (lambda: sm.Stack([nn.Tanh()] * 4, DIM, recipe=mgr(depth=3)), r"depth: got 3 for 4 streams, too few sites"),
        (
            lambda: sm.Stack([nn.Tanh()] * 9, DIM, 8, mgr(depth=9, gate="competitive")),
            r"depth: got 9 for 8 streams, too few",
        ),
        (lambda: sm.Stack([nn.Tanh()], DIM, recipe="mgr", manifold="stiefel"), r"manifold: got Stiefel; accepted: id"),
        (lambda: sm.Stack([nn.Tanh()], DIM, recipe="mgr", recompute=2), r"recompute: recipe 'mgr' has 'multi-gate'"),
        (lambda: sm.Stack([nn.Tanh()], DIM, recipe="mgr", dynamic=False), r"logits: got 'static'; multi-gate"),
        (
            lambda: sm.Stack([nn.Linear(DIM, 9)], DIM, recipe="mgr")(torch.zeros(2, DIM)),
            r"Linear returned shape \(2, 9\)",
        ),
    ],
)
def test_what_it_refuses(build, message):
    with pytest.raises(ValueError, match=message):
        build()
