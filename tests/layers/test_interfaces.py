"""Wirings with other reads and writes: their states, what they refuse, and what watches or fuses them."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

import streammix as sm
from streammix.layers import EquilibriumConnection, GroupedConnection, MultiHeadConnection, UncoupledConnection, fused

DIM = 8


def changed(name: str, **fields: object) -> sm.recipes.Recipe:
    return dataclasses.replace(sm.recipes.get(name), **fields)


def perturbed(module: nn.Module, size: float = 0.3) -> nn.Module:
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


# --- SimpleHC ---------------------------------------------------------------------------------------------------------


def test_only_the_first_site_of_a_group_has_parameters():
    stack = sm.Stack([nn.Identity()] * 6, DIM, recipe="simple-hc")
    assert {name.rsplit(".", 1)[0] for name in stack.state_dict()} == {"sites.0.logits", "sites.4.logits"}
    assert [site.last for site in stack] == [False, False, False, True, False, False]


def test_a_part_of_a_group_that_is_copied_or_moved_keeps_its_weights(seed):
    stack = perturbed(sm.Stack([nn.Linear(DIM, DIM) for _ in range(6)], DIM, recipe="simple-hc"))
    x = torch.randn(3, DIM)
    state = stack.begin(x)
    for site in copy.deepcopy(stack):
        state = site(state)
    torch.testing.assert_close(stack.end(state), stack(x))


def test_sites_of_a_group_are_traced_with_what_they_read_with(seed):
    stack = perturbed(sm.Stack([nn.Tanh() for _ in range(6)], DIM, recipe="simple-hc"))
    x = torch.randn(5, DIM)
    with sm.diagnostics.trace(stack, states=True) as trace:
        out = stack(x)
    made = stack[0].logits(stack.begin(x))
    for k, site in enumerate(trace.sites()[:4]):
        torch.testing.assert_close(site.pre, made[0].unflatten(-1, (4, 4))[:, k].sigmoid())
        torch.testing.assert_close(site.post, 2 * made[1].unflatten(-1, (4, 4))[:, k].sigmoid())
        assert torch.equal(site.res, torch.eye(4).expand(5, 4, 4))
    torch.testing.assert_close(trace.sites()[-1].state.mean(-2), out)


def test_common_gates_differ_from_group_to_group():
    recipe = changed("simple-hc", connection_options={"group": 2, "common": True})
    stack = sm.Stack([nn.Identity()] * 8, DIM, recipe=recipe)
    reads = [site.logits.bias[:4].argmax().item() for site in list(stack)[::2]]
    assert reads == [0, 1, 2, 3]


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: simple(group=0), r"group: got 0; accepted: integers >= 1"),
        (lambda: simple(common=1), r"common: got 1; accepted: True, False"),
        (lambda: simple(groups=2), r"got 'groups'; grouped connections accept group, common"),
        (lambda: simple()[1](torch.zeros(2, 4, DIM)), r"x: got a tensor; site 1 is number 1 of its group of 4"),
        (
            lambda: simple()[1]((torch.zeros(2, 4, DIM), torch.zeros(2, 4))),
            r"x: got weights of shape \(2, 4\); .*with weights \(\.\.\., 4, 8\)",
        ),
        (lambda: simple()[0](torch.zeros(2, 3, DIM)), r"x: got shape \(2, 3, 8\); accepted: \(\.\.\., 4, 8\)"),
        (lambda: sm.Stack([nn.Tanh()], DIM, recipe="simple-hc", manifold="birkhoff"), r"do not mix"),
        (lambda: heads("uhc", heads=3), r"heads: got 3; accepted with dim 8: integers >= 1 that divide it"),
        (lambda: heads("multi-head-mhc", heads=True), r"heads: got True"),
        (lambda: heads("multi-head-mhc"), r"without 'heads', which multi-head connections need"),
        (lambda: heads("uhc", heads=4)[0](torch.zeros(2, 4, DIM)), r"x: got shape .*\(\.\.\., 4, 4, 2\)"),
        (lambda: sm.Stack([nn.Tanh()], DIM, recipe=changed("uhc", rank=0)), r"rank: got 0; accepted: integers >= 1"),
        (lambda: changed("ehc", logits="per-stream"), r"equilibrium connections accept static, flattened"),
        (
            lambda: sm.Stack([nn.Linear(DIM, 6)], DIM, recipe="multi-head-mhc")(torch.zeros(2, DIM)),
            r"branch: Linear returned shape \(2, 6\); accepted: \(2, 8\)",
        ),
        (
            lambda: sm.Stack([nn.Linear(DIM, 6)], DIM, recipe="uhc")(torch.zeros(2, DIM)),
            r"branch: Linear returned shape \(2, 6\); accepted: \(2, 8\)",
        ),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def simple(**options: object) -> sm.Stack:
    return sm.Stack([nn.Tanh()] * 2, DIM, recipe=changed("simple-hc", connection_options=options))


def heads(name: str, **options: object) -> sm.Stack:
    return sm.Stack([nn.Tanh()] * 2, DIM, recipe=changed(name, connection_options=options))


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["uhc", "multi-head-mhc"])
@pytest.mark.parametrize("collapse", ["sum", "mean", "head"])
def test_heads_end_as_streams_do(recipe, collapse, seed):
    stack = perturbed(sm.Stack([nn.Linear(DIM, DIM)], DIM, recipe=changed(recipe, collapse=collapse)))
    x = torch.randn(3, 5, DIM)
    states = stack.states(x)
    assert states.shape == (3, 5, 4, 4, 2)
    plain = sm.Collapse(DIM, 4, how=collapse)
    plain.load_state_dict(stack.collapse.state_dict())
    torch.testing.assert_close(stack(x), plain(states.transpose(-3, -2).flatten(-2)))


def test_the_mix_of_heads_keeps_the_mean_of_every_channel_and_expands_nothing(seed):
    """A branch of zeros leaves the mix alone, which is doubly stochastic in each head."""
    stack = perturbed(sm.Stack([torch.zeros_like] * 3, DIM, recipe="multi-head-mhc"), 2.0)
    x = torch.randn(7, 4, 4, 2)
    out = x
    for site in stack:
        out = site(out)
    torch.testing.assert_close(out.mean(-2), x.mean(-2))
    assert (out.norm(dim=(-2, -1)) <= x.norm(dim=(-2, -1)) * (1 + 1e-6)).all()
    assert (out.norm(dim=(-2, -1)) < 0.99 * x.norm(dim=(-2, -1))).any()


def test_a_trace_has_a_matrix_for_every_head(seed):
    for recipe in ("uhc", "multi-head-mhc"):
        stack = perturbed(sm.Stack([nn.Tanh()] * 2, DIM, recipe=recipe))
        with sm.diagnostics.trace(stack, states=True) as trace:
            stack(torch.randn(3, 5, DIM))
        first, _ = trace.sites()
        assert first.pre.shape == first.post.shape == (60, 4)
        assert first.res.shape == (60, 4, 4)
        assert first.state.shape == (60, 4, 2)
        ones = torch.ones(2, dtype=torch.float64)
        torch.testing.assert_close(sm.diagnostics.gains_by_depth(trace.res).forward, ones)  # doubly stochastic


# --- passes over the state --------------------------------------------------------------------------------------------


def test_which_sites_fuse():
    for recipe, kind, fuses in (
        ("motif-3", sm.HyperConnection, True),
        ("ehc", EquilibriumConnection, True),
        ("simple-hc", GroupedConnection, False),
        ("uhc", UncoupledConnection, False),
        ("multi-head-mhc", MultiHeadConnection, False),
    ):
        site = sm.Stack([nn.Tanh()], DIM, recipe=recipe)[0]
        assert type(site) is kind
        assert site.fuses is fuses
        assert site.rebuilds is fuses
        if not fuses:
            with pytest.raises(ValueError, match=r"recompute: recipe .* has .* connections with flattened logits"):
                sm.Stack([nn.Tanh()], DIM, recipe=recipe, recompute=2)


def test_a_fused_stack_of_ehc_calls_no_site(seed, monkeypatch):
    seen = []
    monkeypatch.setattr(fused, "run", lambda *args, run=fused.run, **kwargs: seen.append(1) or run(*args, **kwargs))
    sm.Stack([nn.Tanh()] * 2, DIM, recipe="ehc")(torch.randn(3, DIM))
    assert seen == [1]


def test_checkpoints_of_mhc_have_no_meaning_in_ehc():
    site = sm.Stack([nn.Tanh()], DIM, recipe=changed("ehc", write="sigmoid"))[0]
    with pytest.raises(
        ValueError, match=r"site: got one of recipe 'ehc', whose write logits are not one for each stream"
    ):
        sm.checkpoints.export(site, "deepseek-v4")
