"""Branches that take several inputs: the same for all, or from reads of their own (Decoupled Semantic Routing)."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import Tensor, nn

import streammix as sm
from streammix.lab.model import Attention, rotations
from streammix.layers import DecoupledConnection

DIM, DOUBLE = 6, torch.float64
READ_ONCE = [name for name in sm.recipes.names() if sm.recipes.get(name).connection not in ("decoupled", "dense")]


class Three(nn.Module):
    """As attention does, each input is used in a way of its own."""

    branch_inputs = 3

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, scale: float = 1.0) -> Tensor:
        return scale * (self.linear(queries) * keys).tanh() + values.sin()


class Thrice(nn.Module):
    def __init__(self, three: Three) -> None:
        super().__init__()
        self.three = three

    def forward(self, u: Tensor, scale: float = 1.0) -> Tensor:
        return self.three(u, u, u, scale)


def perturbed(module: nn.Module, size: float = 0.5) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


def dsr(**options) -> sm.recipes.Recipe:
    return dataclasses.replace(sm.recipes.get("dsr"), connection_options=options)


def branches(dim: int = DIM) -> list[nn.Module]:
    return [Three(dim), nn.Linear(dim, dim), Three(dim)]


# --- one read, several inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", READ_ONCE)
def test_a_recipe_that_reads_once_gives_the_same_input_thrice(recipe, seed):
    torch.manual_seed(1)
    three = sm.Stack([Three(8), nn.Linear(8, 8), Three(8)], 8, recipe=recipe)
    torch.manual_seed(1)
    once = sm.Stack([Thrice(Three(8)), nn.Linear(8, 8), Thrice(Three(8))], 8, recipe=recipe)
    x = torch.randn(2, 5, 8)
    assert torch.equal(three(x, scale=0.5), once(x, scale=0.5))


def test_channels_of_several_inputs_may_come_first(seed):
    class Convolutions(nn.Module):
        branch_inputs = 2

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(DIM, DIM, 3, padding=1), nn.Conv1d(DIM, DIM, 1)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.first(a) * self.second(b)

    x = torch.randn(2, DIM, 5)
    for recipe in ("mhc", "dsr"):
        stack = sm.Stack([Convolutions()], DIM, recipe=recipe, channel_dim=1)
        torch.testing.assert_close(stack(x), x + stack[0].branch(x, x))


@pytest.mark.refusal
@pytest.mark.parametrize("inputs", [0, -1, True, 2.0, "3", None, 65])
def test_a_branch_that_says_no_number(inputs):
    branch = Three()
    branch.branch_inputs = inputs
    with pytest.raises(ValueError, match=r"branch: its branch_inputs is .*; accepted: integers from 1 to 64"):
        sm.Stack([branch], DIM)


# --- reads of their own ---------------------------------------------------------------------------------------------


def coefficients(site: DecoupledConnection, x: list[list[float]]) -> tuple[list[list[float]], list[float], Tensor]:
    """pre, post and H_res of one token (mHC, arXiv 2512.24880, Eq. 7-9, with k n reads) in loops of floats."""
    import math

    n, k = site.streams, site.inputs
    weight, bias, gates = site.logits.weight.tolist(), site.logits.bias.tolist(), site.logits.gate.tolist()
    flat = [a for stream in x for a in stream]
    rms = math.sqrt(sum(a * a for a in flat) / len(flat) + 1e-6)
    ends = [k * n, k * n + n, len(weight)]
    logits = []
    for row, (phi, b) in enumerate(zip(weight, bias)):
        gate = gates[next(i for i, end in enumerate(ends) if row < end)]
        logits.append(gate * sum(a * w for a, w in zip(flat, phi)) / rms + b)
    sigmoid = [1 / (1 + math.exp(-a)) for a in logits]
    pre = [sigmoid[s * n : (s + 1) * n] for s in range(k)]
    post = [2 * a for a in sigmoid[k * n : k * n + n]]
    return pre, post, sm.birkhoff(torch.tensor(logits[ends[1] :], dtype=DOUBLE).view(n, n))


@pytest.mark.parametrize("k", [2, 3])
def test_formula_token_by_token(k, seed):
    """u_s = sum_j pre[s, j] x_j,  out_i = sum_j H[i, j] x_j + post_i branch(u_0, ...)."""

    def branch(*inputs: Tensor) -> Tensor:
        return sum((s + 1) * torch.sin(u + s) for s, u in enumerate(inputs))

    site = perturbed(DecoupledConnection(branch, DIM, 4, dsr(inputs=k), site=1).double())
    x = torch.randn(3, 4, DIM, dtype=DOUBLE)
    out, made = site(x), site.coefficients(x)
    assert made[0].shape == (3, k, 4)
    for t, token in enumerate(x.tolist()):
        pre, post, H = coefficients(site, token)
        inputs = [[sum(p * s[c] for p, s in zip(row, token)) for c in range(DIM)] for row in pre]
        y = branch(*(torch.tensor(u, dtype=DOUBLE) for u in inputs)).tolist()
        expected = [
            [sum(float(H[i, j]) * token[j][c] for j in range(4)) + post[i] * y[c] for c in range(DIM)] for i in range(4)
        ]
        for actual, value in zip((made[0][t], made[1][t], out[t]), (pre, post, expected)):
            torch.testing.assert_close(actual, torch.tensor(value, dtype=DOUBLE), rtol=0, atol=1e-12)


def test_it_starts_as_the_plain_residual_network_and_its_reads_come_apart(seed):
    stack, x = sm.Stack(branches(), DIM, recipe="dsr"), torch.randn(4, 5, DIM)
    plain = x
    for branch in (site.branch for site in stack):
        plain = plain + (branch(plain, plain, plain) if isinstance(branch, Three) else branch(plain))
    torch.testing.assert_close(stack(x), plain, rtol=1e-5, atol=1e-5)
    stack(x).square().sum().backward()
    gradient = stack[0].logits.bias.grad[:12].view(3, 4)
    assert torch.pdist(gradient).min() > 1e-2 * gradient.norm()


@pytest.mark.parametrize("dynamic", [None, False])
def test_one_input_is_a_hyper_connection_to_the_bit(dynamic, seed):
    ours = perturbed(sm.Stack([nn.Linear(DIM, DIM)] * 3, DIM, recipe="dsr", dynamic=dynamic), 0.2)
    theirs = sm.Stack([nn.Linear(DIM, DIM)] * 3, DIM, recipe="mhc", dynamic=dynamic)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, DIM)
    state = ours.begin(x)
    for site, twin in zip(ours, theirs):
        out = site(state)
        assert torch.equal(out, twin(state))
        state = out
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("dynamic", [None, False])
def test_gradients(static, dynamic, seed):
    stack = perturbed(sm.Stack([Three(4), nn.Tanh()], 4, 2, dsr(static_reads=static), dynamic=dynamic).double(), 0.3)
    x = torch.randn(3, 4, dtype=DOUBLE, requires_grad=True)
    names, parameters = zip(*stack.named_parameters())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(stack, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters))
    assert torch.autograd.gradgradcheck(call, (x, *parameters), fast_mode=True)


def test_static_reads_do_not_depend_on_the_state(seed):
    site = perturbed(sm.Stack([Three()], DIM, recipe=dsr(static_reads=True)))[0]
    pre, post, _ = site.coefficients(torch.randn(5, 4, DIM))
    assert torch.equal(pre, pre[:1].expand_as(pre))
    assert not torch.equal(post, post[:1].expand_as(post))
    assert (pre[0, 0] != pre[0, 1]).all()


def test_parameter_counts():
    """mHC's (n^2 + 2n) n C + n^2 + 2n + 3, and (k - 1) n rows of phi and biases; static reads have biases alone."""
    C, n = 64, 4
    mhc = (n * n + 2 * n) * n * C + n * n + 2 * n + 3
    for k in (1, 2, 3):
        site = DecoupledConnection(None, C, n, dsr(inputs=k), site=0)
        assert sum(p.numel() for p in site.parameters()) == mhc + (k - 1) * n * (n * C + 1)
        site = DecoupledConnection(None, C, n, dsr(inputs=k, static_reads=True), site=0)
        assert sum(p.numel() for p in site.parameters()) == mhc - n * n * C - 1 + (k - 1) * n


def test_inputs_of_functions_are_said_by_the_recipe(seed):
    def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return queries * keys + values

    stack = sm.Stack([attention, torch.tanh] * 2, DIM, recipe=dsr(inputs=(3, 1)))
    assert [site.inputs for site in stack] == [3, 1, 3, 1]
    assert stack(torch.randn(2, DIM)).shape == (2, DIM)
    u, finish = stack[0].connect(stack.begin(torch.randn(2, DIM)))
    assert [v.shape for v in u] == [(2, DIM)] * 3
    assert finish(attention(*u)).shape == (2, 4, DIM)


@pytest.mark.refusal
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 0}, r"inputs: got 0; accepted: an integer from 1 to 64"),
        ({"inputs": ()}, r"inputs: got \(\)"),
        ({"inputs": (3, "1")}, r"inputs: got \(3, '1'\)"),
        ({"inputs": 2}, r"inputs: got 2 for site 0, whose branch has branch_inputs 3; accepted: that"),
        ({"static_reads": 1}, r"static_reads: got 1; accepted: True, False"),
        ({"heads": 1}, r"connection_options: got 'heads'; decoupled connections accept inputs, static_reads"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sm.Stack([Three()], DIM, recipe=dsr(**options))


def test_recompute_is_refused():
    with pytest.raises(ValueError, match=r"recompute: recipe 'dsr' has 'decoupled' connections with flattened logits"):
        sm.Stack(branches(), DIM, recipe="dsr", recompute=2)


def test_an_activation_follows_every_write(seed):
    stack, x = sm.Stack(branches(), DIM, recipe="dsr", activation=nn.ReLU()), torch.randn(4, DIM)
    assert (stack.states(x) >= 0).all()


def test_traces_have_every_read_and_their_mean(seed):
    stack, x = perturbed(sm.Stack(branches(), DIM, recipe="dsr")), torch.randn(2, 5, DIM)
    with sm.diagnostics.trace(stack, states=True) as trace:
        out = stack(x)
    assert torch.equal(out, stack(x))
    first, second, third = trace.sites()
    pre, post, res = stack[0].coefficients(stack.begin(x))
    assert first.reads.shape == third.reads.shape == (10, 3, 4)
    assert second.reads is None
    assert torch.equal(first.reads, pre.flatten(0, 1))
    assert torch.equal(first.pre, pre.mean(-2).flatten(0, 1))
    assert torch.equal(first.post, post.flatten(0, 1))
    assert torch.equal(first.res, res.flatten(0, 1))
    assert sm.diagnostics.gains_by_depth(trace.res).forward.shape == (3,)


@pytest.mark.parametrize("static", [True, False])
def test_copies_meta_half_precision_and_compile(static, seed):
    recipe = dsr(static_reads=static)
    stack, x = perturbed(sm.Stack(branches(), DIM, recipe=recipe), 0.1), torch.randn(2, 5, DIM)
    out = stack(x)
    fresh = sm.Stack(branches(), DIM, recipe=recipe)
    fresh.load_state_dict(stack.state_dict())
    for twin in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack)), fresh):
        assert torch.equal(twin(x), out)
    torch._dynamo.reset()
    compiled = torch.compile(stack, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), out)
    torch.testing.assert_close(torch.vmap(stack)(x), out)
    for empty in (torch.randn(0, DIM), torch.randn(2, 0, DIM)):
        assert stack(empty).shape == empty.shape
    torch.testing.assert_close(stack(x.mT.contiguous().mT), out)
    with torch.autocast("cpu", torch.bfloat16):
        rough = stack(x)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, out, rtol=0, atol=0.1)
    own = {p.dtype for name, p in stack.bfloat16().named_parameters() if ".branch." not in name}
    assert own == {torch.float32}
    assert stack(x.bfloat16()).dtype == torch.bfloat16
    with torch.device("meta"):
        empty = sm.Stack(branches(), DIM, recipe=recipe)
    assert empty(torch.empty(2, 5, DIM, device="meta")).shape == (2, 5, DIM)
    empty.to_empty(device="cpu").reset_parameters()
    for name, parameter in sm.Stack(branches(), DIM, recipe=recipe).named_parameters():
        assert ".branch." in name or torch.equal(parameter, empty.get_parameter(name)), name


# --- the lab's attention --------------------------------------------------------------------------------------------


def test_the_lab_s_attention_takes_inputs_of_their_own(seed):
    """Each input through the norm, then through its own third of the projection."""
    attention = Attention(16, 2)
    rotation = rotations(7, 8, torch.device("cpu"))
    a, b, c = torch.randn(3, 2, 7, 16).unbind()
    torch.testing.assert_close(attention(a, a.clone(), a.clone(), rotation), attention(a, a, a, rotation))
    with torch.no_grad():
        attention.qkv.weight[:16] = 0  # all queries alike: every earlier token has the same weight
    values = torch.nn.functional.linear(attention.norm(c), attention.qkv.weight[32:])
    mean = values.cumsum(1) / torch.arange(1, 8)[:, None]
    torch.testing.assert_close(attention(a, b, c, rotation), attention.out(mean))
