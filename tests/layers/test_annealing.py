"""A write multiplier that training changes: a buffer, in steps that compile once, in every wiring and checkpoint."""

import copy
import dataclasses
import io

import pytest
import torch
from torch import nn

import streammix as sm
from streammix.recipes import wirings

DIM = 8
#: Every wiring, annealed from 2 to 1.
WIRINGS = {
    sm.recipes.get(name).connection: name
    for name in ("motif-3", "dghc", "xhc", "gated-residual", "deepseek-v4.1", "simple-hc", "uhc", "ehc")
} | {"frac": "frac", "multi-head": "multi-head-mhc"}


def annealed(name: str) -> sm.recipes.Recipe:
    recipe = sm.recipes.get(name)
    write = "linear" if recipe.write == "linear" else "sigmoid"
    return dataclasses.replace(recipe, write=write, write_multiplier=2.0, write_multiplier_end=1.0, rank=3)


def stack_of(recipe: str | sm.recipes.Recipe = "motif-3", **options) -> sm.Stack:
    stack = sm.Stack([nn.Linear(DIM, DIM) for _ in range(4)], DIM, recipe=recipe, **options)
    with torch.no_grad():
        for p in stack.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return stack


def test_progress_goes_from_the_start_to_the_end(seed):
    stack = stack_of()
    assert [site.write_multiplier for site in stack] == [2.0] * 4
    for progress, multiplier in ((0, 2.0), (0.25, 1.75), (0.5, 1.5), (1, 1.0), (0.0, 2.0)):
        sm.anneal_write_multiplier(stack, progress)
        assert [site.write_multiplier for site in stack] == [multiplier] * 4
    stack[1].write_multiplier = 1.25
    assert [site.write_multiplier for site in stack] == [2.0, 1.25, 2.0, 2.0]


def test_every_wiring_that_anneals_is_covered(monkeypatch):
    anneal = {name for name, wiring in wirings._WIRINGS.items() if wiring.anneals}
    assert set(WIRINGS) == anneal
    recipe = sm.recipes.get("motif-3")
    monkeypatch.setitem(wirings._WIRINGS, "hyper", dataclasses.replace(wirings.wiring_of("hyper"), anneals=False))
    with pytest.raises(ValueError, match=r"write_multiplier_end: got 1\.0; hyper connections accept None"):
        dataclasses.replace(recipe, gate=0.1)


@pytest.mark.parametrize("name", WIRINGS.values())
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_an_annealed_multiplier_acts_as_a_constant_of_its_value(name, backend, seed):
    """In every wiring, with gradients and without, and so in every pass that joins sites."""
    recipe = annealed(name)
    stack = stack_of(recipe).double()
    sm.anneal_write_multiplier(stack, 0.7)
    constant = dataclasses.replace(recipe, write_multiplier=1.3, write_multiplier_end=None)
    parts = [site.branch for site in stack]
    same = sm.Stack(parts, DIM, recipe=constant).double()
    same.load_state_dict({key: value for key, value in stack.state_dict().items() if ".annealed." not in key})
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    with sm.backend(backend):
        out, expected = stack(x), same(x)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)
        for a, b in zip(
            torch.autograd.grad(out.square().sum(), [p for p in stack.parameters() if p.requires_grad]),
            torch.autograd.grad(expected.square().sum(), [p for p in same.parameters() if p.requires_grad]),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(stack(x), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("recompute", [2, "auto"])
def test_recompute_changes_nothing(recompute, seed):
    stack = stack_of(recompute=recompute).double()
    sm.anneal_write_multiplier(stack, 0.5)
    plain = copy.deepcopy(stack)
    plain.recompute = None
    x = torch.randn(3, DIM, dtype=torch.float64)
    for model in (stack, plain):
        model(x).square().sum().backward()
    for p, q in zip(stack.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-11, atol=1e-11)


def test_a_multiplier_that_changes_compiles_nothing_again(seed):
    torch._dynamo.reset()
    stack, graphs = sm.Stack([nn.Linear(DIM, DIM)] * 2, DIM, recipe="motif-3"), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(stack, backend=count, fullgraph=True)
    x, outs = torch.randn(3, DIM), []
    for step in range(10):  # more than the limit of recompilations
        sm.anneal_write_multiplier(stack, step / 9)
        outs.append(compiled(x))
        torch.testing.assert_close(outs[-1], stack(x))
    assert len(graphs) == 1
    assert not torch.allclose(outs[0], outs[-1], atol=1e-3)


def test_it_is_in_checkpoints_and_copies(seed):
    stack = stack_of()
    sm.anneal_write_multiplier(stack, 0.5)
    file = io.BytesIO()
    torch.save(stack.state_dict(), file)
    file.seek(0)
    fresh = stack_of()
    fresh.load_state_dict(torch.load(file))
    for model in (fresh, copy.deepcopy(stack), copy.deepcopy(stack).half()):
        assert [site.write_multiplier for site in model] == [1.5] * 4
        assert model[0].annealed.multiplier.dtype == torch.float32
    fresh.reset_parameters()
    assert fresh[3].write_multiplier == 2.0


def test_recipes_with_a_constant_have_no_buffer():
    stack = sm.Stack([nn.Tanh()], DIM)
    assert not list(stack.buffers())
    assert stack[0].write_multiplier == 1.0


@pytest.mark.refusal
def test_what_cannot_be_annealed_is_refused():
    plain = sm.Stack([nn.Tanh()], DIM)
    with pytest.raises(
        ValueError, match=r"model: got a Stack whose write multipliers are constants; accepted: .*motif-3"
    ):
        sm.anneal_write_multiplier(plain, 0.5)
    with pytest.raises(ValueError, match=r"write_multiplier: recipe 'mhc' has a constant one; accepted: .*motif-3"):
        plain[0].write_multiplier = 1.5
    stack = sm.Stack([nn.Tanh()], DIM, recipe="motif-3")
    for progress in (-0.1, 1.5, float("nan"), "half", True, None):
        with pytest.raises(ValueError, match=r"progress: got .*; accepted: numbers from 0 to 1"):
            sm.anneal_write_multiplier(stack, progress)
    with pytest.raises(TypeError, match=r"model: got list; accepted: a torch\.nn\.Module"):
        sm.anneal_write_multiplier([stack], 0.5)
    for value in (0, float("inf"), "2"):
        with pytest.raises(ValueError, match=r"write_multiplier: got .*; accepted: finite numbers > 0"):
            stack[0].write_multiplier = value
    with pytest.raises(ValueError, match=r"recipe: got 'motif-3', whose write multiplier changes in training"):
        sm.connect(torch.zeros(2, 4, DIM), torch.zeros(24, 32), torch.zeros(24), torch.zeros(3), "motif-3")
