"""A stack: any recipe's connections around a list of branches, and what holds for all of them."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import streammix as sm
from streammix.layers import FracConnection, GeneralisedConnection, SinglePassConnection, SparseConnection

RECIPES = sm.recipes.names()
IDENTITY_STARTS = [name for name in RECIPES if sm.recipes.get(name).start == "identity"]
OTHER_LAYOUTS = [name for name in RECIPES if sm.recipes.get(name).connection != "hyper"]
DIM = 16


def branches(count=6, dim=DIM):
    torch.manual_seed(5)
    return [
        nn.Sequential(nn.RMSNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        for _ in range(count)
    ]


def plain(parts, x):
    for part in parts:
        x = x + part(x)
    return x


def normed(x):
    """As a model's final norm sees it: streams may end in their sum."""
    return nn.functional.rms_norm(x, x.shape[-1:])


def perturbed(module, size=0.3):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


@pytest.mark.parametrize("recipe", IDENTITY_STARTS)
def test_starts_as_the_plain_residual_network(recipe, seed):
    parts, x = branches(), torch.randn(3, 7, DIM)
    out = sm.Stack(parts, DIM, recipe=recipe)(x)
    assert out.shape == x.shape
    torch.testing.assert_close(normed(out), normed(plain(parts, x)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("streams", [1, 2, 8, 16])
def test_fractions_start_so_exactly_at_any_number(streams, seed):
    parts, x = branches(), torch.randn(3, 7, DIM)
    assert torch.equal(sm.Stack(parts, DIM, streams, "frac")(x), plain(parts, x))


@pytest.mark.parametrize("recipe", ["ghc", "dghc"])
@pytest.mark.parametrize(("streams", "segments"), [(3, 2), (4, 4), (6, 4), (9, 8), (4, 1)])
def test_generalised_connections_start_so_at_any_rate(recipe, streams, segments, seed):
    parts, x = branches(), torch.randn(3, 7, DIM)
    recipe = dataclasses.replace(sm.recipes.get(recipe), connection_options={"segments": segments})
    torch.testing.assert_close(sm.Stack(parts, DIM, streams, recipe)(x), plain(parts, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("streams", "active", "fixed"), [(16, 4, 2), (4, 4, 2), (8, 3, 0), (5, 4, 4), (2, 2, 1)])
def test_sparse_connections_start_so_at_any_number(streams, active, fixed, seed):
    parts, x = branches(), torch.randn(3, 7, DIM)
    options = {"active": active, "fixed": fixed}
    recipe = dataclasses.replace(sm.recipes.get("xhc"), connection_options=options)
    out = sm.Stack(parts, DIM, streams, recipe)(x)
    torch.testing.assert_close(out / active, plain(parts, x), rtol=1e-5, atol=1e-5)


def test_single_pass_wiring_can_start_so_too(seed):
    parts, x = branches(), torch.randn(3, 7, DIM)
    for collapse in ("carried", "mean"):
        recipe = dataclasses.replace(sm.recipes.get("mhc"), connection="single-pass", collapse=collapse)
        torch.testing.assert_close(sm.Stack(parts, DIM, recipe=recipe)(x), plain(parts, x), rtol=0, atol=1e-5)


# Static xhc is left out, whose never chosen streams stay copies; and static deepseek-v4.1: zero biases are symmetric.
@pytest.mark.parametrize(
    ("recipe", "dynamic"), [*((name, None) for name in OTHER_LAYOUTS), ("frac", False), ("dghc", False)]
)
def test_streams_come_apart_in_training(recipe, dynamic, seed):
    stack = sm.Stack(branches(), DIM, recipe=recipe, dynamic=dynamic)
    head = nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, 5))
    x, target = torch.randn(8, 6, DIM), torch.randn(8, 6, 5)
    optimizer = torch.optim.AdamW([*stack.parameters(), *head.parameters()], lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (head(stack(x)) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    streams = stack.states(x).detach()
    apart = torch.pdist(streams.movedim(-2, 0).flatten(1))
    assert apart.min() > 1e-3 * streams.norm()


@pytest.mark.parametrize("recipe", OTHER_LAYOUTS)
def test_every_parameter_learns(recipe, seed):
    stack = sm.Stack(branches(), DIM, recipe=recipe)
    optimizer = torch.optim.SGD(stack.parameters(), lr=0.1)
    seen = set()
    for _ in range(3):
        optimizer.zero_grad()
        normed(stack(torch.randn(4, 13, DIM))).mul(torch.randn(DIM)).sum().backward()
        seen |= {name for name, p in stack.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    missing = {name for name, _ in stack.named_parameters()} - seen
    assert missing == set()


@pytest.mark.parametrize("recipe", OTHER_LAYOUTS)
@pytest.mark.parametrize("dynamic", [None, False])
def test_gradcheck(recipe, dynamic, seed):
    recipe = sm.recipes.get(recipe)
    recipe = dataclasses.replace(recipe, streams=min(recipe.streams, 2), rank=2)
    if recipe.connection in ("gated", "multi-gate", "depth-attention") and dynamic is False:
        with pytest.raises(ValueError, match=r"logits: got 'static'; \S+ connections accept (low-rank|query)"):
            sm.Stack([nn.Tanh()], 4, recipe=recipe, dynamic=False)
        return
    if recipe.connection == "sparse":
        recipe = dataclasses.replace(
            recipe, streams=3, connection_options={"active": 2, "fixed": 1, "temporal": ((2, 3),)}
        )
    if recipe.connection == "generalised":
        recipe = dataclasses.replace(recipe, streams=3, connection_options={"segments": 2})
    stack = perturbed(sm.Stack([nn.Tanh(), nn.Sigmoid()], 4, recipe=recipe, dynamic=dynamic).double())
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    names, params = zip(*stack.named_parameters())

    def call(x, *params):
        return torch.func.functional_call(stack, dict(zip(names, params)), (x,))

    assert torch.autograd.gradcheck(call, (x, *params))
    assert torch.autograd.gradgradcheck(call, (x, *params), fast_mode=True)


@pytest.mark.parametrize("recipe", OTHER_LAYOUTS)
def test_half_precision(recipe, seed):
    """Streams keep their dtype, coefficients' parameters stay in float32, autocast changes the branches alone."""
    stack = perturbed(sm.Stack(branches(), DIM, recipe=recipe), 0.01)
    x = torch.randn(2, 7, DIM)
    exact = stack(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = stack(x)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(normed(rough), normed(exact), rtol=0, atol=0.1)
    stack.bfloat16()
    assert stack(x.bfloat16()).dtype == torch.bfloat16
    own = {p.dtype for name, p in stack.named_parameters() if ".branch." not in name}
    assert own == {torch.float32}


@pytest.mark.parametrize("recipe", ["mhc", *OTHER_LAYOUTS])
def test_compile(recipe, seed):
    torch._dynamo.reset()
    stack = perturbed(sm.Stack([nn.Tanh(), nn.Sigmoid()], 8, recipe=recipe), 0.1)
    compiled = torch.compile(stack, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (3, 5):
        x = torch.randn(2, tokens, 8, requires_grad=True)
        out, expected = compiled(x), stack(x)
        torch.testing.assert_close(out, expected)
        inputs = [x, *(p for p in stack.parameters() if p.requires_grad)]
        ours, theirs = (torch.autograd.grad(o.square().sum(), inputs, allow_unused=True) for o in (out, expected))
        for a, b in zip(ours, theirs):
            assert (a is None or not a.any()) if b is None else a is not None
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", OTHER_LAYOUTS)
def test_copies_and_state_dict(recipe, seed):
    stack = perturbed(sm.Stack(branches(3), DIM, recipe=recipe))
    x = torch.randn(2, 7, DIM)
    out = stack(x)
    fresh = sm.Stack(branches(3), DIM, recipe=recipe)
    fresh.load_state_dict(stack.state_dict())
    for twin in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack)), fresh):
        assert torch.equal(twin(x), out)


@pytest.mark.parametrize("recipe", OTHER_LAYOUTS)
def test_meta_device(recipe, seed):
    with torch.device("meta"):
        stack = sm.Stack(branches(3), DIM, recipe=recipe)
    assert stack(torch.empty(2, 7, DIM, device="meta")).shape == (2, 7, DIM)
    stack.to_empty(device="cpu")
    twin = sm.Stack(branches(3), DIM, recipe=recipe)
    for one in (stack, twin):
        torch.manual_seed(1)
        one.reset_parameters()
    for (name, a), b in zip(stack.named_parameters(), twin.parameters()):
        assert ".branch." in name or torch.equal(a, b), name


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(7, DIM), (0, 7, DIM), (2, 0, DIM), (2, 3, 5, DIM)])
def test_leading_dimensions(recipe, shape, seed):
    stack = sm.Stack(branches(2), DIM, recipe=recipe)
    x = torch.randn(shape, requires_grad=True)
    out = stack(x)
    assert out.shape == shape
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in stack.parameters())


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "xhc"])
def test_one_token_alone(recipe, seed):
    stack, x = perturbed(sm.Stack(branches(2), DIM, recipe=recipe), 0.1), torch.randn(4, DIM)
    torch.testing.assert_close(torch.stack([stack(token) for token in x]), stack(x))


@pytest.mark.parametrize("recipe", ["mhc", *OTHER_LAYOUTS])
def test_vmap_and_checkpoint(recipe, seed):
    stack = perturbed(sm.Stack(branches(2), DIM, recipe=recipe), 0.1)
    x = torch.randn(3, 5, DIM, requires_grad=True)
    out = stack(x)
    (expected,) = torch.autograd.grad(out.square().sum(), x)
    torch.testing.assert_close(torch.vmap(stack)(x), out)
    gradient = torch.vmap(torch.func.grad(lambda x: stack(x).square().sum()))(x.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    rebuilt = checkpoint(stack, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(rebuilt.square().sum(), x)[0], expected)


def test_a_stack_is_its_sites(seed):
    """begin, every site, end: what a user would write with expand, HyperConnection and Collapse."""
    parts, x = branches(3), torch.randn(2, 7, DIM)
    stack = sm.Stack(parts, DIM, 4, "deepseek-v4")
    state = sm.expand(x, 4)
    for index, site in enumerate(stack.sites):
        assert isinstance(site, sm.HyperConnection)
        assert (site.site, site.branch) == (index, parts[index])
        state = site(state)
    assert torch.equal(stack.states(x), state)
    assert torch.equal(stack(x), stack.collapse(state))


def test_arguments_go_to_every_branch(seed):
    def branch(u, scale, *, bias):
        return u * scale + bias

    x = torch.randn(3, 8)
    for recipe, kind in {
        "mhc": sm.HyperConnection,
        "frac": FracConnection,
        "dghc": GeneralisedConnection,
        "xhc": SparseConnection,
        "deepseek-v4.1": SinglePassConnection,
    }.items():
        stack = sm.Stack([branch, branch], 8, recipe=recipe)
        assert type(stack.sites[1]) is kind
        assert stack(x, 2.0, bias=1.0).shape == x.shape
    state = x
    for _ in range(2):
        state = state + branch(state, 2.0, bias=1.0)
    torch.testing.assert_close(sm.Stack([branch, branch], 8, recipe="frac")(x, 2.0, bias=1.0), state)


def test_overrides(seed):
    x = torch.randn(3, 7, DIM)
    stack = sm.Stack(branches(2), DIM, recipe="mhc", manifold="stiefel", dynamic=False)
    assert isinstance(stack.sites[1].manifold, sm.manifolds.Stiefel)
    assert set(dict(stack.sites[0].logits.named_parameters())) == {"bias"}
    assert stack.states(x).shape == (3, 7, 4, DIM)


@pytest.mark.parametrize("recipe", ["frac", "dghc", "xhc", "deepseek-v4.1"])
@pytest.mark.parametrize("manifold", ["birkhoff", "stiefel", "spectral-sphere", "kronecker"])
def test_connections_compose_with_manifolds(recipe, manifold, seed):
    flattened = dataclasses.replace(sm.recipes.get(recipe), logits="flattened")
    stack = perturbed(sm.Stack(branches(2), DIM, recipe=flattened, manifold=manifold))
    x = torch.randn(3, 7, DIM)
    assert stack(x).isfinite().all()
    site = stack.sites[0]
    size = site.active if recipe == "xhc" else stack.streams
    state = torch.randn(5, size, site.width if recipe in ("frac", "dghc") else DIM)
    H = (site.active_coefficients if recipe == "xhc" else site.coefficients)(state)[-1]
    assert H.shape == (5, size, size)
    assert site.manifold.contains(H).all()


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sm.Stack([], 8), r"branches: got none; accepted: one or more"),
        (lambda: sm.Stack([nn.Tanh()], 8, recipe="mch"), r"recipe: none is called 'mch'"),
        (lambda: sm.Stack([nn.Tanh()], 0), r"dim: got 0"),
        (lambda: sm.Stack([nn.Tanh()], 8, 0), r"streams: got 0"),
        (lambda: sm.Stack([nn.Tanh()], 8, recipe="hc-static", dynamic=True), r"dynamic: .*'hc-static'"),
        (lambda: sm.Stack([nn.Tanh()], 8, manifold="ball"), r"manifold: none is called 'ball'"),
        (lambda: sm.Stack([nn.Tanh()], 8, 3, "frac"), r"dim: got 8; accepted .*multiples of 3"),
        (lambda: sm.Stack([nn.Tanh()], 6, recipe="ghc"), r"dim: got 6; accepted .*multiples of 4"),
        (lambda: sm.Stack([nn.Tanh()], 8, 3, "ghc"), r"segments: got 4; accepted with 3 streams: integers from 1 to 3"),
        (lambda: sm.Stack([nn.Tanh()], 8, 3, "xhc"), r"active: got 4 with 2 fixed and 3 streams"),
        (lambda: sm.Stack([nn.Tanh()], 8, recipe="frac", manifold="quaternion"), r"8 logits; per-stream logits"),
        (lambda: sm.Stack([nn.Tanh()], 8, recipe="temper", manifold="identity"), r"0 logits; CP generators"),
        (lambda: changed("frac", logits="cp"), r"logits: got 'cp'; frac connections accept static, flattened"),
        (lambda: changed("xhc", logits="per-stream"), r"logits: got 'per-stream'; sparse connections accept"),
        (lambda: changed("frac", collapse="sum"), r"collapse: got 'sum'; frac connections accept concatenate"),
        (lambda: changed("ghc", collapse="head"), r"collapse: got 'head'; generalised connections accept sum, mean"),
        (lambda: changed("mhc", collapse="carried"), r"collapse: got 'carried'; hyper connections accept sum, mean"),
        (
            lambda: changed("mhc", connection="loop"),
            r"connection: got 'loop'; accepted: hyper, ",
        ),
        (lambda: changed("temper", rank=0), r"rank: got 0; accepted: integers >= 1"),
        (lambda: changed("xhc", connection_options={"temporal": ()}), r"temporal: got no site"),
        (lambda: changed("xhc", connection_options={"temporal": ((0,),)}), r"temporal: got filter lengths \(0,\)"),
        (lambda: changed("xhc", connection_options={"time_axis": -1}), r"time_axis: got -1"),
        (
            lambda: sm.HyperConnection(None, 8, recipe="frac", site=0),
            r"connection is 'frac'; .*streammix\.Stack accepts all",
        ),
        (lambda: sm.HyperConnection(None, 8, recipe="deepseek-v4.1", site=0), r"connection is 'single-pass'"),
        (lambda: sm.Stack([nn.Tanh()], 8)(torch.zeros(2, 9)), r"x: got shape \(2, 9\); accepted: \(\.\.\., 8\)"),
        (
            lambda: sm.Stack([nn.Tanh()], 8, recipe="ghc")(torch.zeros(2, 9)),
            r"accepted: \(\.\.\., 8\) or \(\.\.\., 16\)",
        ),
        (lambda: sm.Stack([nn.Linear(8, 9)], 8, recipe="frac")(torch.zeros(2, 8)), r"Linear returned shape \(2, 9\)"),
        (lambda: sm.Stack([nn.Tanh()] * 2, 8, recipe="xhc")(torch.zeros(8)), r"y: got shape \(8,\).* time axis -2"),
        (lambda: sm.Stack([nn.Tanh()], 8, recipe="xhc").sites[0](torch.zeros(4, 8)), r"accepted: \(\.\.\., 16, 8\)"),
        (lambda: sm.Stack([nn.Tanh()], 8, recipe="ghc").sites[0](torch.zeros(4, 8)), r"accepted: \(\.\.\., 8, 2\)"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def changed(recipe, **fields):
    return sm.Stack([nn.Tanh()], 8, recipe=dataclasses.replace(sm.recipes.get(recipe), **fields))


@pytest.mark.parametrize("recipe", ["mhc", "frac", "dghc", "xhc", "deepseek-v4.1"])
def test_a_branch_returns_a_tensor_first(recipe):
    with pytest.raises(TypeError, match=r"branch: function returned a dict; accepted: a tensor, or a tuple"):
        sm.Stack([lambda u: {"y": u}], 8, recipe=recipe)(torch.zeros(2, 3, 8))
    with pytest.raises(TypeError, match=r"branch: function returned a NoneType"):
        sm.Stack([lambda u: (None, u)], 8, recipe=recipe)(torch.zeros(2, 3, 8))


@pytest.mark.refusal
def test_wrong_kinds_of_argument():
    with pytest.raises(TypeError, match=r"branches: number 1 is a int; accepted"):
        sm.Stack([nn.Tanh(), 3], 8)
    with pytest.raises(TypeError, match=r"manifold: got Birkhoff; Stack accepts a name"):
        sm.Stack([nn.Tanh()], 8, manifold=sm.manifolds.Birkhoff(4))


@pytest.mark.parametrize("name", RECIPES)
def test_no_token_sees_a_later_one(name, seed):
    model = sm.Stack([nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 8)) for _ in range(4)], 8, recipe=name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 10, 8)
    other = torch.cat([x[:, :6], torch.randn(2, 4, 8)], 1)
    before, after = model(x), model(other)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6:], after[:, 6:])
