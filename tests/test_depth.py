"""Options of a recipe that change along the depth."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn

import streammix as sm
from streammix.recipes import Switch

DIM = 8
HALFWAY = dataclasses.replace(
    sm.recipes.get("os-hc"), name="halfway", manifold_options={"sums": Switch("rows", "columns", at=0.5)}
)


def sums(stack):
    return [site.manifold.sums for site in stack]


@pytest.mark.parametrize(
    ("at", "sites", "first"),
    [(0, 5, 0), (3, 5, 3), (9, 5, 5), (0.0, 5, 0), (0.5, 6, 3), (0.5, 5, 3), (0.1, 30, 3), (0.7, 10, 7), (1.0, 5, 5)],
)
def test_how_many_sites_come_before_a_switch(at, sites, first):
    switch = Switch("a", "b", at=at)
    assert [switch.value(site, sites) for site in range(sites)] == ["a"] * first + ["b"] * (sites - first)


@pytest.mark.refusal
@pytest.mark.parametrize("at", [-1, -0.1, 1.5, float("nan"), True, "half", None])
def test_a_switch_at_no_site(at):
    with pytest.raises(ValueError, match=r"at: got .*; accepted: numbers of sites, integers >= 0, or a share"):
        Switch("a", "b", at=at)


def test_a_stack_tells_its_sites_how_many_there_are():
    stack = sm.Stack([nn.Linear(DIM, DIM) for _ in range(5)], DIM, recipe=HALFWAY)
    assert sums(stack) == ["rows"] * 3 + ["columns"] * 2
    assert stack.recipe == HALFWAY
    assert [site.recipe.manifold_options for site in stack] == [{"sums": s} for s in sums(stack)]


@pytest.mark.parametrize("connection", ["hyper", "single-pass", "generalised", "sparse", "frac"])
def test_every_wiring_that_mixes_changes_along_the_depth(connection):
    recipe = dataclasses.replace(
        next(sm.recipes.get(name) for name in sm.recipes.names() if sm.recipes.get(name).connection == connection),
        manifold="one-sided",
        manifold_options={"sums": Switch("columns", "rows", at=0.25)},
    )
    stack = sm.Stack([nn.Linear(DIM, DIM) for _ in range(4)], DIM, recipe=recipe)
    assert sums(stack) == ["columns", "rows", "rows", "rows"]
    assert stack(torch.randn(2, 3, DIM)).shape == (2, 3, DIM)


def test_a_site_by_itself_must_be_told():
    with pytest.raises(
        ValueError, match=r"sites: got None; .* 0\.5 of the depth .*'halfway', manifold_options\['sums'\]"
    ):
        sm.HyperConnection(None, DIM, 4, HALFWAY, site=1)
    assert sm.HyperConnection(None, DIM, 4, HALFWAY, site=1, sites=2).manifold.sums == "columns"
    assert sm.HyperConnection(None, DIM, 4, HALFWAY.at(1, 4), site=1).manifold.sums == "rows"
    assert sm.HyperConnection(None, DIM, 4, "cmhc", site=4).manifold.gamma == 1
    with pytest.raises(ValueError, match=r"sites: got 2; accepted: integers >= 3"):
        sm.HyperConnection(None, DIM, 4, "mhc", site=2, sites=2)


def test_the_recipe_of_a_site():
    recipe = sm.recipes.get("cmhc")
    assert recipe.at(3).manifold_options == {"gamma": 0.8, "by": "permutations"}
    assert recipe.at(4).manifold_options == {"gamma": 1.0, "by": "permutations"}
    assert recipe.at(4).at(0) == recipe.at(4)
    mhc = sm.recipes.get("mhc")
    assert mhc.at(7) is mhc


def test_a_recipe_that_changes_is_data():
    assert copy.deepcopy(HALFWAY) == pickle.loads(pickle.dumps(HALFWAY)) == HALFWAY
    assert hash(HALFWAY) == hash(pickle.loads(pickle.dumps(HALFWAY)))
    assert str(Switch("rows", "columns", at=0.5)) == "rows before 0.5 of the depth then columns"


def test_another_manifold_takes_no_switch_along():
    stack = sm.Stack([nn.Identity()] * 2, DIM, recipe=HALFWAY, manifold="birkhoff")
    assert all(site.manifold.projects for site in stack)
    assert sm.HyperConnection(None, DIM, 4, HALFWAY, site=1, manifold="birkhoff").manifold.projects


def test_a_site_on_borrowed_parameters_is_one_site(seed):
    own = sm.HyperConnection(None, DIM, 4, HALFWAY, site=1, sites=2)
    given = own.logits.weight, own.logits.bias, own.logits.gate
    x = torch.randn(3, 4, DIM)
    with pytest.raises(
        ValueError, match=r"'halfway', which changes along the depth; accepted: recipe\.at\(site, sites\)"
    ):
        sm.connect(x, *given, HALFWAY)
    u, finish = sm.connect(x, *given, HALFWAY.at(1, 2))
    mine, finished = own.connect(x)
    assert torch.equal(u, mine)
    assert torch.equal(finish(u), finished(mine))
