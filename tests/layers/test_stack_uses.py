"""What a Stack does beside joining branches: their arguments and outputs, axes, activations, and its traps."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import streammix as sm
from streammix.layers import decoding

RECIPES = sm.recipes.names()
ONE_OF_EACH = [
    *("mhc", "hc", "frac", "dghc", "xhc", "deepseek-v4.1", "dsr", "mgr", "attnres", "muddformer"),
    *("simple-hc", "uhc", "ehc", "multi-head-mhc"),
]
DIM = 8


class Masked(nn.Module):
    """Takes a mask, and returns it beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, u, mask=None, *, scale: float = 1.0):
        y = self.linear(u) * scale
        return (y if mask is None else y * mask), mask


def mixed_branches() -> list[nn.Module]:
    return [Masked(), nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, DIM))]


def test_len_index_and_iteration():
    stack = sm.Stack([nn.Tanh(), nn.ReLU(), nn.GELU()], DIM)
    assert len(stack) == 3
    assert [type(site.branch) for site in stack] == [nn.Tanh, nn.ReLU, nn.GELU]
    assert stack[-1] is stack.sites[2]
    x = torch.randn(2, DIM)
    state = stack.begin(x)
    for site in stack:
        state = site(state)
    assert torch.equal(stack.end(state), stack(x))
    with pytest.raises(IndexError):
        stack[3]


@pytest.mark.parametrize("recipe", ONE_OF_EACH)
def test_keywords_go_to_the_branches_that_take_them(recipe, seed):
    stack = sm.Stack(mixed_branches(), DIM, recipe=recipe, first_output=True)
    x, mask = torch.randn(2, 5, DIM), torch.randint(2, (2, 5, 1)).float()
    with pytest.warns(UserWarning, match="holds Stack"):
        masked = sm.Stack([lambda u: stack[0].branch(u, mask, scale=0.5)[0], stack[1].branch], DIM, recipe=recipe)
    masked.load_state_dict({k: v for k, v in stack.state_dict().items() if not k.startswith("sites.0.branch")})
    torch.testing.assert_close(stack(x, mask=mask, scale=0.5), masked(x))
    assert not torch.equal(stack(x, mask=mask), stack(x))
    with pytest.raises(TypeError, match=r"masc: no branch of this Stack takes a keyword argument of this name"):
        stack(x, masc=mask)


@pytest.mark.parametrize("recipe", ONE_OF_EACH)
def test_further_outputs_come_back_or_are_dropped(recipe, seed):
    stack = sm.Stack(mixed_branches(), DIM, recipe=recipe)
    x, mask = torch.randn(2, 5, DIM), torch.ones(2, 5, 1)
    y, further = stack(x, mask=mask)
    assert len(further) == 2
    assert further[0][0] is mask
    assert further[1] == ()
    stack.first_output = True
    assert torch.equal(stack(x, mask=mask), y)


@pytest.mark.parametrize("recipe", ["mhc", "frac", "deepseek-v4.1"])
def test_a_site_returns_further_outputs_beside_the_state(recipe):
    stack = sm.Stack([Masked()], DIM, recipe=recipe)
    mask = torch.ones(2, 1)
    state, further = stack[0](stack.begin(torch.randn(2, DIM)), mask)
    assert further is mask
    assert stack.end(state).shape == (2, DIM)


@pytest.mark.parametrize(
    "recipe", ["mhc", "hc", "frac", "ghc", "deepseek-v4.1", "simple-hc", "uhc", "ehc", "multi-head-mhc"]
)
def test_channels_may_come_first(recipe, seed):
    """Equal to the same stack on channel-last states, its branches moved by hand."""
    convolutions = [nn.Conv2d(DIM, DIM, 3, padding=1) for _ in range(3)]
    first = sm.Stack(convolutions, DIM, recipe=recipe, channel_dim=1)
    moved = [functools.partial(lambda c, u: c(u.movedim(-1, 1)).movedim(1, -1), c) for c in convolutions]
    with pytest.warns(UserWarning, match="holds Conv2d"):
        last = sm.Stack(moved, DIM, recipe=recipe)
    last.load_state_dict({k: v for k, v in first.state_dict().items() if ".branch." not in k})
    x = torch.randn(2, DIM, 5, 7)
    y = first(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y, last(x.movedim(1, -1)).movedim(-1, 1))
    if sm.recipes.get(recipe).start == "identity":
        plain = x
        for convolution in convolutions:
            plain = plain + convolution(plain)
        scale = 4 if recipe == "hc" else 1  # its streams end in their sum
        torch.testing.assert_close(y / scale, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "recipe", ["mhc", "mhc-lite", "frac", "ghc", "hc", "simple-hc", "uhc", "ehc", "multi-head-mhc"]
)
def test_an_activation_follows_every_write(recipe, seed):
    branches = [nn.Linear(DIM, DIM) for _ in range(3)]
    stack = sm.Stack(branches, DIM, recipe=recipe, activation=nn.ReLU())
    x = torch.randn(4, 5, DIM).relu()
    plain = x
    for branch in branches:
        plain = (plain + branch(plain)).relu()
    scale = 4 if recipe == "hc" else 1
    torch.testing.assert_close(stack(x) / scale, plain, rtol=2e-2, atol=2e-2)
    assert (stack.states(x) >= 0).all()
    u, finish = stack[0].connect(stack.begin(x))
    assert (stack[0].streams_of(finish(stack[0].branch(u))) >= 0).all()


def test_an_activation_of_carried_streams_leaves_the_read_weights_alone(seed):
    stack = sm.Stack([nn.Linear(DIM, DIM)] * 2, DIM, recipe="deepseek-v4.1", activation=torch.tanh)
    x, pre = stack[0](stack.begin(torch.randn(3, DIM)))
    assert x.abs().max() <= 1
    assert (pre > 0).all()


def test_recompute_refuses_an_activation():
    with pytest.raises(ValueError, match=r"recompute: .*an activation follows them"):
        sm.Stack([nn.Tanh()] * 2, DIM, recompute=2, activation=F.relu)


# --- traps ----------------------------------------------------------------------------------------------------------


def test_a_site_must_say_which_it_is():
    with pytest.raises(TypeError, match="site"):
        sm.HyperConnection(nn.Tanh(), DIM)


def test_collapse_ends_as_the_recipe_does(seed):
    x = torch.randn(3, 4, DIM)
    assert torch.equal(sm.Collapse(DIM)(x), x.mean(-2))
    assert torch.equal(sm.Collapse(DIM, recipe="hc")(x), x.sum(-2))
    assert torch.equal(sm.Collapse(DIM, recipe="hc", how="mean")(x), x.mean(-2))
    assert sm.Collapse(DIM, recipe="deepseek-v4").head is not None
    with pytest.raises(ValueError, match=r"recipe: got 'frac', whose streams end in 'concatenate'; Collapse accepts"):
        sm.Collapse(DIM, recipe="frac")


def test_functions_that_hide_parameters_are_named():
    layer = nn.Linear(DIM, DIM)

    def by_default(u, layer=layer):
        return layer(u)

    for branch in (lambda u: layer(u), functools.partial(torch.nn.functional.relu, layer), layer.forward, by_default):
        with pytest.warns(UserWarning, match=r"branch: got a function that holds Linear; a connection does not own"):
            sm.HyperConnection(branch, DIM, site=0)


@pytest.mark.filterwarnings("error")
def test_functions_without_parameters_are_welcome():
    tanh = nn.Tanh()
    for branch in (torch.tanh, lambda u: tanh(u), nn.Linear(DIM, DIM), None):
        sm.HyperConnection(branch, DIM, site=0)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 7, DIM), r"streammix\.expand\(x, 4\) makes streams"),
        ((4, 7, DIM), r"dimension 0 has 4 entries, but streams are next to last"),
        ((2, 4, DIM + 1), r"accepted: \(\.\.\., 4, 8\)$"),
    ],
)
def test_a_state_of_the_wrong_shape_is_explained(shape, hint):
    with pytest.raises(ValueError, match=hint):
        sm.HyperConnection(nn.Tanh(), DIM, site=0)(torch.zeros(shape))


# --- decoding -------------------------------------------------------------------------------------------------------


def perturbed(stack: sm.Stack) -> sm.Stack:
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return stack.eval()


@pytest.mark.parametrize("parts", [[1] * 15, [5, 1, 1, 8], [1, 14], [15]])
def test_xhc_decodes_a_text_in_parts(parts, seed):
    stack = perturbed(sm.Stack([nn.Linear(DIM, DIM) for _ in range(4)], DIM, recipe="xhc"))
    x = torch.randn(3, 15, DIM)
    with torch.no_grad():
        whole = stack(x)
        for _ in range(2):  # a second text starts anew
            with decoding(stack):
                out = torch.cat([stack(part) for part in x.split(parts, 1)], 1)
            torch.testing.assert_close(out, whole, rtol=1e-4, atol=1e-5)
        assert torch.equal(stack(x), whole)


def test_xhc_refuses_a_token_out_of_context(seed):
    stack = perturbed(sm.Stack([nn.Linear(DIM, DIM) for _ in range(2)], DIM, recipe="xhc"))
    with pytest.raises(RuntimeError, match=r"xhc: got one token.*streammix\.layers\.decoding"):
        stack(torch.zeros(1, 1, DIM))
    stack.train()(torch.zeros(1, 1, DIM)).sum().backward()  # texts of one token may be trained on


@pytest.mark.parametrize("recipe", ["mhc", "frac"])
def test_decoding_changes_nothing_for_others(recipe, seed):
    stack = sm.Stack([nn.Tanh()] * 2, DIM, recipe=recipe)
    x = torch.randn(2, 1, DIM)
    expected = stack(x)
    with decoding(stack):
        assert torch.equal(stack(x), expected)
