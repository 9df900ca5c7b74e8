import math

import pytest
import torch
from torch import nn
from traced_networks import DIM, Borrowing, Stacked

import streammix as sm
from streammix.diagnostics import first_non_finite


def spoil(parameter: torch.Tensor, value: float = math.nan) -> None:
    with torch.no_grad():
        parameter.view(-1)[0] = value


def look(model: nn.Module, x: torch.Tensor, *, backward: bool = True) -> sm.diagnostics.NonFinite | None:
    with first_non_finite(model) as found:
        loss = model(x).square().sum()
        if backward:
            loss.backward()
    return found.first


@pytest.mark.parametrize("recipe", ["mhc", "hc", "deepseek-v4.1", "frac", "xhc"])
def test_a_healthy_model_has_none_and_computes_the_same(recipe, seed):
    model, x = Stacked(recipe), torch.randn(5, DIM)
    model(x).square().sum().backward()
    expected = [model(x), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    model.zero_grad()
    assert look(model, x) is None
    found = [model(x), *(p.grad for p in model.parameters() if p.grad is not None)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not any(site.observers for site in model.stack)


@pytest.mark.parametrize("recipe", ["mhc", "frac", "xhc"])
def test_a_branch_is_named(recipe, seed):
    model = Stacked(recipe)
    spoil(model.stack[2].branch.linear.bias)
    found = look(model, torch.randn(5, DIM))
    assert (found.name, found.depth, found.what, found.backward, found.run) == ("stack.sites.2", 2, "branch", False, 0)
    assert (found.nans, found.infinities) == (5, 0)
    assert str(found).startswith("the branch's output at site 3 (stack.sites.2): 5 NaN of ")


@pytest.mark.parametrize(("row", "what"), [(0, "pre"), (4, "post"), (8, "H_res")])
def test_the_weights_that_went_wrong_are_named(row, what, seed):
    model = Stacked("mhc")
    with torch.no_grad():
        model.stack[1].logits.bias[row] = math.nan
    found = look(model, torch.randn(5, DIM))
    assert (found.depth, found.what) == (1, what)


def test_the_read_and_the_write_are_named(seed):
    model = Stacked("hc").half()
    with torch.no_grad():
        model.stack[1].logits.bias[:4] = 6e4  # finite in half precision, as pre; the sum it weights is not
    assert look(model, torch.ones(2, DIM).half(), backward=False).what == "read"

    class Huge(nn.Module):
        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return torch.full_like(u, 3e38)

    site = sm.HyperConnection(Huge(), DIM, 2, "hc-static", site=0)
    found = look(site, torch.full((2, 2, DIM), 3e38), backward=False)
    assert (found.name, found.what, found.infinities) == ("", "write", 2 * 2 * DIM)
    assert str(found) == f"the streams after the site at site 1: {4 * DIM} inf of {4 * DIM} numbers"


def test_the_input_is_told_from_the_first_site(seed):
    found = look(Stacked(), torch.full((2, DIM), math.inf))
    assert (found.depth, found.what) == (0, "state")


def test_gradients_are_named_where_the_forward_pass_is_finite(seed):
    class Kink(nn.Module):
        """0 at 0, where its slope is infinite."""

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return (0 * u).abs().sqrt() + u

    model = Stacked("mhc")
    model.stack[1].branch = Kink()
    found = look(model, torch.randn(5, DIM))
    assert found.backward
    assert (found.depth, found.what) == (1, "state")
    assert "the gradient of the streams before the site at site 2" in str(found)


def test_a_gradient_that_comes_from_behind_the_last_site_is_of_its_write(seed):
    model = Stacked("mhc")
    with first_non_finite(model) as found:
        (0 * model(torch.randn(5, DIM))).abs().sqrt().sum().backward()
    assert (found.first.backward, found.first.depth, found.first.what) == (True, 3, "write")


def test_what_follows_the_last_site_is_not_theirs(seed):
    model = Stacked()
    spoil(model.head.bias)
    found = look(model, torch.randn(5, DIM), backward=False)
    assert found is None


def test_sites_on_borrowed_parameters_are_named_by_their_weight(seed):
    model = Borrowing(Stacked())
    spoil(model.branches[3].linear.bias)
    found = look(model, torch.randn(5, DIM))
    assert (found.name, found.depth, found.what) == ("weights.3", 3, "branch")


def test_the_call_is_counted(seed):
    model, x = Stacked(), torch.randn(5, DIM)
    with first_non_finite(model) as found:
        model(x)
        model(x)
        assert found.first is None
        model(x * math.inf)
    assert found.first.run == 2


@pytest.mark.refusal
def test_bad_input():
    with pytest.raises(TypeError, match="got list"), first_non_finite([]):
        pass
