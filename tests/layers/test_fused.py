"""A stack that passes over the state once between two branches equals its sites called one by one."""

import copy
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import streammix as sm
from streammix.layers import fused

RECIPES = ["mhc", "mhc-sinkhorn", "ihc", "deepseek-v4", "mhc-lite", "isohc", "hc", "hc-static", "motif-3", "ehc"]


def stack(recipe="mhc", *, sites=5, dim=12, dtype=torch.float32, **options):
    branches = [nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) for _ in range(sites)]
    model = sm.Stack(branches, dim, recipe=recipe, **options).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".branch." not in name:
                p.add_(0.3 * torch.randn_like(p))
    return model


def one_by_one(model, x):
    state = model.begin(x)
    for site in model.sites:
        state = site(state)
    return model.end(state)


def gradients(model, run, x):
    x = x.clone().requires_grad_()
    out = run(model, x)
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad))
    grads = torch.autograd.grad(out.double().square().sum(), (x, *parameters), allow_unused=True)
    return out, dict(zip(("x", *names), grads))


def assert_same(model, run, reference, x, rtol):
    out, grads = gradients(model, run, x)
    expected_out, expected = gradients(model, reference, x)
    assert torch.equal(out, expected_out)
    for name, e in expected.items():
        assert (grads[name] is None) == (e is None), name
        if e is not None:
            scale = max(e.abs().max().item(), 1e-3) if e.numel() else 1.0
            torch.testing.assert_close(
                grads[name], e, rtol=0, atol=rtol * scale, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(7, 12), (12,), (2, 3, 12), (0, 12)])
def test_stack_equals_its_sites(recipe, shape, seed):
    model = stack(recipe, dtype=torch.float64)  # in which the order of sums does not matter
    assert_same(model, lambda m, x: m(x), one_by_one, torch.randn(shape, dtype=torch.float64), 1e-11)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 7, 33])
def test_without_gradients_the_same_bits(backend, dtype, dim, seed):
    """The operator for inference stands in for those that have derivatives."""
    model = stack(dim=dim).to(dtype)
    for tokens in (0, 1, 3, 40):
        x = torch.randn(tokens, dim).to(dtype)
        with sm.backend(backend):
            expected = model(x)
            assert expected.requires_grad
            with torch.no_grad():
                assert torch.equal(model(x), expected)
            with torch.inference_mode():
                assert torch.equal(model(x), expected)


def test_a_manifold_that_maps_otherwise_is_called(seed):
    class Transposed(sm.manifolds.Birkhoff):
        def forward(self, logits):
            return super().forward(logits).mT

    for gradients_wanted in (True, False):
        site = sm.HyperConnection(nn.Tanh(), 12, 4, manifold=Transposed(4), site=0)
        stacked = stack(sites=2)
        stacked.sites[1].manifold = Transposed(4)
        with torch.set_grad_enabled(gradients_wanted):
            x = torch.randn(3, 12)
            torch.testing.assert_close(stacked(x), one_by_one(stacked, x))
            streams = torch.randn(3, 4, 12)
            opened, res = site.open(streams), site.coefficients(streams)[2]
            assert torch.equal(opened.res, site.manifold(site.logits(streams)[2]))
            torch.testing.assert_close(opened.res, res)


def test_a_watched_manifold_is_called(seed):
    model, seen = stack(), []
    model.sites[1].manifold.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        expected = model(torch.randn(3, 12))
    assert seen == [1]
    assert expected.shape == (3, 12)


@pytest.mark.parametrize("recipe", ["mhc", "deepseek-v4", "isohc", "ehc"])
@pytest.mark.parametrize("every", [1, 2, 3, 5, 9, "auto"])
@pytest.mark.parametrize("dim", [12, 4])  # dim 4: a mixing matrix has the shape of the streams
def test_recompute_changes_nothing(recipe, every, dim, seed):
    model = stack(recipe, dim=dim, recompute=every, dtype=torch.float64)
    assert_same(model, lambda m, x: m(x), one_by_one, torch.randn(3, 4, dim, dtype=torch.float64), 1e-11)


def test_recompute_in_bfloat16_streams(seed):
    """As near to the derivatives in float64 as the sites one by one are, up to a few roundings."""
    model, x = stack(recompute=2).to(torch.bfloat16), torch.randn(9, 12).bfloat16()
    out, grads = gradients(model, lambda m, x: m(x), x)
    plain_out, plain = gradients(model, one_by_one, x)
    _, exact = gradients(copy.deepcopy(model).double(), one_by_one, x.double())
    assert torch.equal(out, plain_out)
    for name, e in exact.items():
        scale, error = e.abs().max(), (plain[name] - e).abs().max()
        assert (grads[name] - e).abs().max() <= 2 * error + 2**-5 * scale, name


def test_recompute_keeps_few_states(monkeypatch, seed):
    asked, most, alive = [], 0, weakref.WeakSet()

    class Watched(fused.Rebuilt):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)

        def __getitem__(self, index):
            nonlocal most
            asked.append((index, sorted(run.first for run in alive)))
            state = super().__getitem__(index)
            most = max(most, len(self.known))
            return state

    monkeypatch.setattr(fused, "Rebuilt", Watched)
    loss = stack(sites=9, recompute=3)(torch.randn(8, 12, requires_grad=True)).sum()
    writes = []
    monkeypatch.setattr(fused, "write", lambda *args: writes.append(args) or sm.write(*args))
    assert {run.first: len(run.writes) for run in alive} == {0: 3, 3: 3, 6: 3}
    loss.backward()
    assert len(writes) == 6  # each state that was not kept once
    assert {index for index, _ in asked} == {1, 2, 4, 5, 7, 8}
    assert most == 2
    assert asked[-1] == (1, [0])  # what is behind has been let go


@pytest.mark.parametrize(("streams", "sites"), [(1, 1), (1, 7), (2, 12), (4, 2), (4, 12), (4, 100), (16, 30)])
def test_automatic_states(streams, sites):
    kept = sorted(fused.kept_states(streams, sites, "auto"))
    assert kept[0] == 0
    assert kept[-1] == sites - 1
    for first, end in zip(kept, [*kept[1:], sites]):
        longest = 1 + 8 * (sites - end) // streams
        assert end - first == longest or (first == 0 and end - first < longest)


def test_a_graph_without_backward_is_freed(seed):
    model = stack(sites=6, recompute=3)
    out = model(torch.randn(8, 12, requires_grad=True))
    node = out.grad_fn
    while type(node).__name__ != "write_site_readBackward":
        node = node.next_functions[0][0]
    alive = weakref.ref(node)
    del out, node
    assert alive() is None


def test_branches_run_once_with_recompute(seed):
    calls = 0

    class Counting(nn.Linear):
        def forward(self, u):
            nonlocal calls
            calls += 1
            return super().forward(u)

    model = sm.Stack([Counting(6, 6) for _ in range(6)], 6, recompute=3)
    model(torch.randn(2, 6, requires_grad=True)).sum().backward()
    assert calls == 6


@pytest.mark.parametrize("recompute", [None, 2])
def test_inside_checkpoint(recompute, seed):
    model = stack(recompute=recompute, dtype=torch.float64)
    x = torch.randn(5, 12, dtype=torch.float64)
    assert_same(model, lambda m, x: checkpoint(m, x, use_reentrant=False), one_by_one, x, 1e-11)


@pytest.mark.parametrize("recompute", [None, 2])
def test_second_derivatives(recompute, seed):
    model = stack(dim=3, sites=3, dtype=torch.float64, recompute=recompute)
    assert torch.autograd.gradcheck(model, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradgradcheck(model, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("recompute", [None, 2])
def test_a_branch_output_changed_in_place_is_noticed(recompute, seed):
    outputs = []

    class Keeping(nn.Linear):
        def forward(self, u):
            outputs.append(super().forward(u))
            return outputs[-1]

    model = sm.Stack([Keeping(6, 6) for _ in range(4)], 6, recompute=recompute)
    loss = model(torch.randn(2, 6, requires_grad=True)).sum()
    with torch.no_grad():
        outputs[1].zero_()
    with pytest.raises(RuntimeError, match=r"in.?place"):
        loss.backward()


def test_backward_twice(seed):
    model = stack(recompute=2)
    x = torch.randn(4, 12, requires_grad=True)
    loss = model(x).square().sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(first, second)


def test_autocast(seed):
    model = stack()
    x = torch.randn(6, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(model, lambda m, x: m(x), one_by_one, x, 2e-2)


def test_hooks_and_traces_see_every_site(seed):
    model, seen = stack(), []
    handle = model.sites[2].register_forward_hook(lambda *_: seen.append(1))
    model(torch.randn(3, 12))
    handle.remove()
    assert seen == [1]
    with sm.diagnostics.trace(model) as trace:
        model(torch.randn(3, 12))
    assert len(trace.sites()) == len(model.sites)


def test_functional_transforms(seed):
    model = stack(dim=4, sites=2, recompute=2)
    x = torch.randn(3, 4)
    grad = torch.func.grad(lambda x: model(x).square().sum())(x)
    y = x.clone().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(model(y).square().sum(), y)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.vmap(model)(x), model(x))


def test_compiled(seed):
    model = stack()
    x = torch.randn(6, 12)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    out, grads = gradients(model, lambda m, x: m(x), x)
    y = x.clone().requires_grad_()
    compiled_out = compiled(y)
    torch.testing.assert_close(compiled_out, out)
    (grad,) = torch.autograd.grad(compiled_out.double().square().sum(), y)
    torch.testing.assert_close(grad, grads["x"], rtol=1e-4, atol=1e-5)


@pytest.mark.refusal
@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "often"])
def test_bad_interval(bad):
    with pytest.raises(ValueError, match="recompute"):
        stack(recompute=bad)


@pytest.mark.parametrize("recipe", ["hc", "hc-static", "frac"])
def test_recompute_needs_flattened_logits(recipe):
    with pytest.raises(ValueError, match="recompute: recipe"):
        stack(recipe, recompute=2)


@pytest.mark.parametrize("recipe", ["mhc", "mhc-sinkhorn", "deepseek-v4", "deepseek-v4.1"])
def test_matrices_made_beside_their_logits(recipe, monkeypatch, seed):
    """As backends do on GPUs: the same numbers as by the operators one by one."""
    branches = [torch.nn.Linear(8, 8) for _ in range(3)]
    stack = sm.Stack(branches, 8, recipe=recipe).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    wanted = [stack(x), *torch.autograd.grad(stack(x).square().sum(), [x, *stack.parameters()])]
    called = []

    def rule(site, x):
        called.append(site)
        return site.manifold.mixing_rule

    monkeypatch.setattr(sm.HyperConnection, "_mixing_rule", rule)
    got = [stack(x), *torch.autograd.grad(stack(x).square().sum(), [x, *stack.parameters()])]
    assert len(called) >= 4
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
