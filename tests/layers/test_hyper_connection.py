"""A site: starts as the plain residual network, breaks symmetry, and works wherever modules work."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import streammix as sm

RECIPES = [name for name in sm.recipes.names() if sm.recipes.get(name).connection == "hyper"]
IDENTITY_STARTS = [name for name in RECIPES if sm.recipes.get(name).start == "identity"]


def accepts(recipe, streams):
    """Whether the recipe's manifold exists for so many streams."""
    recipe = sm.recipes.get(recipe).at(site=0)
    try:
        sm.manifolds.get(recipe.manifold, streams, **recipe.manifold_options)
    except ValueError:
        return False
    return True


class Branch(nn.Sequential):
    def __init__(self, dim):
        super().__init__(nn.RMSNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


class Net(nn.Module):
    """A stack of sites between expand and Collapse, or the plain residual network of the same branches."""

    def __init__(self, dim=16, depth=6, streams=4, recipe=None):
        super().__init__()
        torch.manual_seed(5)
        branches = [Branch(dim) for _ in range(depth)]
        self.streams = streams if recipe else None
        self.layers = nn.ModuleList(
            [sm.HyperConnection(b, dim, streams, recipe, site=k) for k, b in enumerate(branches)]
            if recipe
            else branches
        )
        how = sm.recipes.get(recipe).collapse if recipe else "sum"
        self.collapse = sm.Collapse(dim, streams, how=how)
        self.head = nn.Sequential(nn.RMSNorm(dim), nn.Linear(dim, 5))

    def forward(self, x):
        if self.streams is None:
            for layer in self.layers:
                x = x + layer(x)
            return self.head(x)
        x = sm.expand(x, self.streams)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.collapse(x))


@pytest.mark.parametrize(
    ("recipe", "streams"), [(name, n) for name in IDENTITY_STARTS for n in (2, 3, 4, 8) if accepts(name, n)]
)
def test_starts_as_the_plain_residual_network(recipe, streams, seed):
    plain, ours = Net(), Net(recipe=recipe, streams=streams)
    ours.head.load_state_dict(plain.head.state_dict())
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("recipe", [name for name in IDENTITY_STARTS if accepts(name, 1)])
def test_one_stream_starts_as_the_plain_residual_network(recipe, seed):
    """A single sigmoid cannot read exactly one; 3e-4 short of it is what the saturation allows."""
    plain, ours = Net(), Net(recipe=recipe, streams=1)
    ours.head.load_state_dict(plain.head.state_dict())
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=2e-3)


@pytest.mark.parametrize("recipe", RECIPES)
def test_streams_come_apart_in_training(recipe, seed):
    """Copied streams under a symmetric start would stay copies for ever."""
    net = Net(recipe=recipe)
    x, target = torch.randn(64, 16), torch.randn(64, 5)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        (net(x) - target).square().mean().backward()
        optimizer.step()
    streams = sm.expand(x, 4)
    for layer in net.layers:
        streams = layer(streams)
    spread = (streams - streams.mean(-2, keepdim=True)).norm() / streams.norm()
    assert spread > 1e-3
    assert torch.pdist(streams.transpose(0, 1).flatten(1)).min() > 1e-3 * streams.norm()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_parameter_learns(recipe, seed):
    """Within two steps every parameter has had a gradient, but for mixers that no first or last site can feel."""
    net = Net(recipe=recipe)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen = set()
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(32, 16)).square().mean().backward()
        seen |= {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    assert seen == {name for name, _ in net.named_parameters()}


def test_coefficients_are_float32_whatever_the_streams(seed):
    site = sm.HyperConnection(Branch(16), 16, site=0)
    for dtype in (torch.bfloat16, torch.float16):
        site.to(dtype)
        assert {p.dtype for p in site.logits.parameters()} == {torch.float32}
        assert {p.dtype for p in site.branch.parameters()} == {dtype}
        x = torch.randn(2, 4, 16).to(dtype)
        assert {c.dtype for c in site.coefficients(x)} == {torch.float32}
        assert site(x).dtype == dtype
    site.float()
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(2, 4, 16)
        assert {c.dtype for c in site.coefficients(x)} == {torch.float32}
        assert site(x).dtype == torch.float32
    assert {c.dtype for c in site.double().coefficients(x.double())} == {torch.float64}


def test_values_survive_a_round_trip_through_bfloat16(seed):
    site = sm.HyperConnection(None, 16, site=0)
    before = copy.deepcopy(site.state_dict())
    after = site.bfloat16().float().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_extra_arguments_and_outputs(seed):
    def branch(u, scale, *, bias):
        return u * scale + bias, "weights", 3

    site = sm.HyperConnection(branch, 8, recipe="hc", site=0)
    x = torch.randn(5, 4, 8)
    out, *rest = site(x, 2.0, bias=1.0)
    assert rest == ["weights", 3]
    u, finish = site.connect(x)
    torch.testing.assert_close(out, finish(2 * u + 1))


def test_formula(seed):
    """out_i = sum_j res_ij x_j + post_i branch(sum_j pre_j x_j)."""
    branch = Branch(16)
    site = sm.HyperConnection(branch, 16, 4, "deepseek-v4", site=0)
    x = torch.randn(2, 3, 4, 16)
    pre, post, res = site.coefficients(x)
    y = branch((pre.unsqueeze(-1) * x).sum(-2))
    torch.testing.assert_close(site(x), res @ x + post.unsqueeze(-1) * y.unsqueeze(-2))


# jpmhc-sinkhorn's gradient is by intention not that of its 20 rounds: see tests/manifolds/test_closed_forms.py
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "jpmhc-sinkhorn"])
def test_gradcheck(recipe, seed):
    n = next(n for n in (2, 3, 4) if accepts(recipe, n))
    site = sm.HyperConnection(nn.Tanh(), 3, n, recipe, site=0).double()
    with torch.no_grad():
        for p in site.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(2, n, 3, dtype=torch.float64, requires_grad=True)
    names, params = zip(*site.named_parameters())

    def call(x, *params):
        return torch.func.functional_call(site, dict(zip(names, params)), (x,))

    assert torch.autograd.gradcheck(call, (x, *params))
    assert torch.autograd.gradgradcheck(call, (x, *params))


@pytest.mark.parametrize("recipe", RECIPES)
def test_compile(recipe, seed):
    torch._dynamo.reset()
    site = sm.HyperConnection(nn.Tanh(), 8, 4, recipe, site=0)
    compiled = torch.compile(site, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (3, 5):
        x = torch.randn(tokens, 4, 8, requires_grad=True)
        out, expected = compiled(x), site(x)
        torch.testing.assert_close(out, expected)
        ours, theirs = (torch.autograd.grad(o.square().sum(), [x, *site.parameters()]) for o in (out, expected))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_checkpoint_copy_and_state_dict(recipe, seed):
    net = Net(recipe=recipe, depth=2)
    x = torch.randn(3, 16, requires_grad=True)
    out = net(x)
    expected = torch.autograd.grad(out.square().sum(), x)
    rebuilt = checkpoint(net, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(rebuilt.square().sum(), x), expected)
    fresh = Net(recipe=recipe, depth=2)
    fresh.load_state_dict(net.state_dict())
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fresh):
        assert torch.equal(twin(x), out)


@pytest.mark.parametrize("recipe", RECIPES)
def test_meta_device(recipe, seed):
    with torch.device("meta"):
        site = sm.HyperConnection(Branch(16), 16, 4, recipe, site=3)
    assert site(torch.empty(2, 4, 16, device="meta")).shape == (2, 4, 16)
    site.to_empty(device="cpu")
    torch.manual_seed(1)
    site.reset_parameters()
    torch.manual_seed(1)
    twin = sm.HyperConnection(None, 16, 4, recipe, site=3)
    torch.manual_seed(1)
    twin.reset_parameters()
    for a, b in zip(site.logits.parameters(), twin.logits.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(4, 16), (0, 4, 16), (2, 0, 4, 16)])
def test_empty_and_single_tokens(shape, seed):
    site = sm.HyperConnection(Branch(16), 16, site=0)
    x = torch.randn(shape, requires_grad=True)
    out = site(x)
    assert out.shape == shape
    out.sum().backward()
    assert site.logits.weight.grad.isfinite().all()


def test_overrides(seed):
    x = torch.randn(2, 4, 8)
    static = sm.HyperConnection(None, 8, recipe="mhc", dynamic=False, site=0)
    assert set(dict(static.logits.named_parameters())) == {"bias"}
    other = sm.HyperConnection(None, 8, recipe="mhc", manifold="unconstrained", site=0)
    torch.testing.assert_close(other.coefficients(x)[2], torch.eye(4).expand(2, 4, 4))
    own = sm.manifolds.Sinkhorn(4, rounds=3, recipe="megatron")
    assert sm.HyperConnection(None, 8, manifold=own, site=0).manifold is own


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sm.HyperConnection(None, 8, recipe="mch", site=0), r"recipe: none is called 'mch'; accepted: hc"),
        (
            lambda: sm.HyperConnection(None, 8, manifold="ball", site=0),
            r"manifold: none is called 'ball'; accepted: birkhoff",
        ),
        (lambda: sm.HyperConnection(None, 0, site=0), r"dim: got 0; accepted: integers >= 1"),
        (lambda: sm.HyperConnection(None, 8, streams=0, site=0), r"streams: got 0"),
        (lambda: sm.HyperConnection(None, 8, site=-1), r"site: got -1"),
        (
            lambda: sm.HyperConnection(None, 8, 4, manifold=sm.manifolds.Birkhoff(3), site=0),
            r"manifold: got one for 3 streams",
        ),
        (
            lambda: sm.HyperConnection(None, 8, recipe="hc", manifold="identity", site=0),
            r"0 logits; per-stream logits",
        ),
        (lambda: sm.HyperConnection(None, 8, recipe="hc-static", dynamic=True, site=0), r"dynamic: .*'hc-static'"),
        (
            lambda: sm.HyperConnection(nn.Identity(), 8, site=0)(torch.zeros(2, 3, 8)),
            r"x: got shape \(2, 3, 8\).*4, 8",
        ),
        (lambda: sm.HyperConnection(nn.Identity(), 8, site=0)(torch.zeros(2, 4, 9)), r"x: got shape \(2, 4, 9\)"),
        (
            lambda: sm.HyperConnection(nn.Linear(8, 9), 8, site=0)(torch.zeros(2, 4, 8)),
            r"y: got shape \(2, 9\).*\(2, 8\)",
        ),
        (lambda: sm.Collapse(8, 4, how="max"), r"how: got 'max'; accepted: sum, mean, head"),
        (lambda: sm.Collapse(8, 4)(torch.zeros(2, 8)), r"x: got shape \(2, 8\)"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.refusal
def test_a_branch_must_be_callable():
    with pytest.raises(TypeError, match=r"branch: got int"):
        sm.HyperConnection(3, 8, site=0)
    with pytest.raises(TypeError, match=r"built with None; use connect"):
        sm.HyperConnection(None, 8, site=0)(torch.zeros(2, 4, 8))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        # n = 4, C = 768
        ("hc-static", 4 * 6),
        ("hc", 2 * 768 + 768 * 6 + 4 * 6 + 2),
        ("mhc", 24 * (4 * 768 + 1) + 3),
        ("mhc-sinkhorn", 24 * (4 * 768 + 1) + 3),
        ("ihc", 8 * 4 * 768 + 8 + 2),
        ("deepseek-v4", 24 * 4 * 768 + 24 + 3),
        ("mhc-lite", (24 + 8) * (4 * 768 + 1) + 3),
        ("kromhc", (4 + 8) * (4 * 768 + 1) + 3),
        ("go-mhc", (28 + 8) * (4 * 768 + 1) + 3),
        ("tbp", (9 + 8) * (4 * 768 + 1) + 3 + 1),  # and the share of 11'/n
        ("rtbp", (9 + 8) * (4 * 768 + 1) + 3 + 1),
        ("c-mhc", (4 + 8) * (4 * 768 + 1) + 3),
        ("shc", (9 + 8) * (4 * 768 + 1) + 3 + 2),  # and gamma_u, gamma_v; its code has 5 gates
        ("isohc", (3 + 8) * (4 * 768 + 1) + 2),  # one gate frozen
        ("ohc", (8 + 8) * (4 * 768 + 1) + 2),
        ("jpmhc-cayley", (16 + 8) * (4 * 768 + 1) + 3),
        ("jpmhc-grassmann", 8 * (4 * 768 + 1) + 2 + 4 * 2),
        ("jpmhc-sinkhorn", (16 + 8) * (4 * 768 + 1) + 3),
        ("perm-mix", (6 + 8) * (4 * 768 + 1) + 3),
        ("os-hc", (16 + 8) * (4 * 768 + 1) + 3),
        ("os-hc-columns", (16 + 8) * (4 * 768 + 1) + 3),
        ("cghc", (16 + 8) * (4 * 768 + 1) + 3),
        ("ito-hc", 8 * (4 * 768 + 1) + 2 + 12),  # whose mix is the same for every token
        ("cmhc", (24 + 8) * (4 * 768 + 1) + 3),
        ("temper", 2 * (3 * 4 + 3 * 768 + 4 * 4) + 24 + 3),
    ],
)
def test_parameter_counts(recipe, expected):
    site = sm.HyperConnection(None, 768, 4, recipe, site=0)
    assert sum(p.numel() for p in site.parameters()) == expected


@pytest.mark.parametrize(
    ("recipe", "without", "published"),
    [("mhc", 1_770_120, 1_843_848), ("mhc-lite", 2_360_136, 2_433_864), ("kromhc", 885_096, 958_824)],
)
def test_published_parameter_counts_include_a_norm_gain(recipe, without, published):
    """24 sites, n = 4, C = 768: KromHC's table. The gain of n C numbers is absorbed in phi."""
    sites = [sm.HyperConnection(None, 768, 4, recipe, site=site) for site in range(24)]
    assert sum(p.numel() for site in sites for p in site.parameters()) == without
    assert without + 24 * 4 * 768 == published


@pytest.mark.parametrize(
    ("recipe", "here", "published", "rows", "others"),
    [
        ("jpmhc-sinkhorn", 49_179, 49_188, 24, 36),
        ("perm-mix", 28_689, 28_694, 14, 22),
        ("jpmhc-cayley", 49_179, 102_400, 48, 2 * 2048),  # three n x n matrices and a LayerNorm
        ("jpmhc-grassmann", 16_402, 32_796, 16, 28),
    ],
)
def test_published_parameter_counts_of_jpmhc(recipe, here, published, rows, others):
    """n = 4, C = 512: what docs/recipes.md says of them."""
    assert sum(p.numel() for p in sm.HyperConnection(None, 512, 4, recipe, site=0).parameters()) == here
    assert rows * 4 * 512 + others == published


def test_a_frozen_gate_is_a_constant(seed):
    site = sm.HyperConnection(None, 8, 4, "ohc", site=0)
    assert site.logits.gate.shape == (2,)
    with torch.no_grad():
        site.logits.weight.normal_()
    x = torch.randn(5, 4, 8)
    flat = x.flatten(-2)
    m = flat @ site.logits.weight[8:].mT / flat.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(site.coefficients(x)[2], site.manifold(0.01 * m))


@pytest.mark.parametrize("recipe", RECIPES)
def test_matrices_are_made_in_full_precision_under_autocast(recipe, seed):
    site = sm.HyperConnection(None, 8, 4, recipe, site=0)
    with torch.no_grad():
        site.logits.bias.add_(torch.randn_like(site.logits.bias))
    x = torch.randn(5, 4, 8)
    plain = site.coefficients(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = site.coefficients(x)
    for a, b in zip(autocast, plain):
        assert torch.equal(a, b)
