import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import streammix as sm

DIM, STREAMS = 8, 4


class Network(nn.Module):
    """Two sites that are called, one that is connected, the last with arguments and further outputs."""

    def __init__(self, recipe: str = "mhc") -> None:
        super().__init__()
        options = {"dim": DIM, "streams": STREAMS, "recipe": recipe}
        self.first = sm.HyperConnection(nn.Linear(DIM, DIM), site=0, **options)
        self.by_hand = sm.HyperConnection(None, site=1, **options)
        self.last = sm.HyperConnection(lambda u, scale: (scale * u.tanh(), u.sum()), site=2, **options)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter) / 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(sm.expand(x, STREAMS))
        u, finish = self.by_hand.connect(x)
        return self.last(finish(u.sin()), scale=2.0)


def replay(visits: list[sm.diagnostics.Visit], network: Network, x: Tensor) -> Tensor:
    """The network's output from recorded coefficients alone: out_i = sum_j res_ij x_j + post_i y."""
    x = sm.expand(x, STREAMS)
    branches = [network.first.branch, torch.sin, lambda u: 2.0 * u.tanh()]
    for visit, branch in zip(visits, branches, strict=True):
        u = torch.einsum("bn,bnc->bc", visit.pre, x)
        x = torch.einsum("bij,bjc->bic", visit.res, x) + visit.post[..., None] * branch(u)[..., None, :]
    return x


@pytest.mark.parametrize("recipe", [r for r in sm.recipes.names() if sm.recipes.get(r).connection == "hyper"])
def test_the_record_explains_the_output(recipe, seed):
    network, x = Network(recipe).double(), torch.randn(5, DIM, dtype=torch.float64)
    with sm.diagnostics.trace(network, states=True) as trace:
        out, _ = network(x)
    assert [visit.name for visit in trace.visits] == ["first", "by_hand", "last"]
    torch.testing.assert_close(replay(trace.visits, network, x), out, rtol=0, atol=1e-10)
    assert torch.equal(trace.visits[-1].state, out)


def test_the_model_computes_the_same_and_is_left_as_it_was(seed):
    network, x = Network(), torch.randn(5, DIM)
    before = network(x)[0]
    untouched = {name: set(vars(module)) for name, module in network.named_modules()}
    with sm.diagnostics.trace(network):
        during = network(x)[0]
    assert torch.equal(before, during)
    assert torch.equal(before, network(x)[0])
    for name, module in network.named_modules():
        assert set(vars(module)) == untouched[name]
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_nothing_stays_behind_after_an_exception(seed):
    network = Network()
    with (
        pytest.raises(ValueError, match=r"accepted: \(\.\.\., 4, 8\)"),
        sm.diagnostics.trace(network) as trace,
    ):
        network(torch.randn(5, DIM + 1))
    assert trace.visits == []
    assert not network._forward_pre_hooks
    network(torch.randn(5, DIM))
    assert trace.visits == []


def test_gradients_flow_as_without_trace_and_the_record_is_detached(seed):
    network, x = Network(), torch.randn(5, DIM)
    network(x)[0].square().sum().backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    with sm.diagnostics.trace(network, states=True) as trace:
        network(x)[0].square().sum().backward()
    for parameter, gradient in zip(network.parameters(), expected):
        assert torch.equal(parameter.grad, gradient)
    for visit in trace.visits:
        assert not any(t.requires_grad for t in (visit.pre, visit.post, visit.res, visit.state))


def test_several_runs_join_their_tokens(seed):
    network = Network()
    batches = [torch.randn(2, 4, DIM), torch.randn(3, DIM)]
    with sm.diagnostics.trace(network, states=True) as trace:
        for batch in batches:
            network(batch)
    assert [visit.run for visit in trace.visits] == [0, 0, 0, 1, 1, 1]
    sites = trace.sites()
    assert [site.name for site in sites] == ["first", "by_hand", "last"]
    assert [tuple(site.res.shape) for site in sites] == [(11, STREAMS, STREAMS)] * 3
    assert tuple(sites[0].state.shape) == (11, STREAMS, DIM)
    assert torch.equal(sites[1].pre, torch.cat([v.pre.flatten(0, -2) for v in trace.visits if v.name == "by_hand"]))
    assert sm.diagnostics.gains_by_depth(trace.res).forward.shape == (3,)


def test_states_are_kept_only_when_asked_for(seed):
    network = Network()
    with sm.diagnostics.trace(network) as trace:
        network(torch.randn(5, DIM))
    assert trace.visits[0].state is None
    assert trace.sites()[0].state is None


def test_one_token_without_leading_dimensions(seed):
    network = Network()
    with sm.diagnostics.trace(network) as trace:
        network(torch.randn(DIM))
    assert tuple(trace.sites()[0].pre.shape) == (1, STREAMS)
    assert tuple(trace.res[0].shape) == (1, STREAMS, STREAMS)


def test_a_site_by_itself_and_a_site_used_twice(seed):
    site = sm.HyperConnection(nn.Identity(), dim=DIM, streams=1, site=0)
    with sm.diagnostics.trace(site) as trace:
        site(x=torch.randn(4, 1, DIM))
    assert trace.visits[0].name == ""
    assert tuple(trace.res[0].shape) == (4, 1, 1)

    twice = nn.Sequential(site, site)
    with sm.diagnostics.trace(twice) as trace:
        twice(torch.randn(4, 1, DIM))
    assert [site.name for site in trace.sites()] == ["0", "0"]


def test_recomputation_in_the_backward_pass_is_not_counted(seed):
    class Checkpointed(Network):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)[0]

    network = Checkpointed()
    with sm.diagnostics.trace(network) as trace:
        network(torch.randn(5, DIM, requires_grad=True)).sum().backward()
    assert [visit.run for visit in trace.visits] == [0, 0, 0]


def test_a_compiled_model_is_seen_too(seed):
    network, x = Network(), torch.randn(5, DIM)
    compiled = torch.compile(network, backend="eager")
    expected = compiled(x)[0]
    with sm.diagnostics.trace(compiled) as trace:
        out = compiled(x)[0]
    torch.testing.assert_close(out, expected)
    assert len(trace.visits) == 3
    torch.testing.assert_close(compiled(x)[0], expected)
    assert len(trace.visits) == 3


def test_a_trace_within_a_trace(seed):
    network, x = Network(), torch.randn(5, DIM)
    with sm.diagnostics.trace(network) as outer:
        with sm.diagnostics.trace(network.first) as inner:
            network(x)
        network(x)
    assert [visit.name for visit in inner.visits] == [""]
    assert len(outer.visits) == 6
    assert "connect" not in vars(network.first)


def test_a_traced_model_can_be_copied_afterwards(seed):
    network, x = Network(), torch.randn(5, DIM)
    with sm.diagnostics.trace(network) as trace:
        network(x)
    copied = copy.deepcopy(network.first)
    assert torch.equal(copied.coefficients(sm.expand(x, STREAMS))[2], trace.visits[0].res)


@pytest.mark.refusal
def test_bad_input(seed):
    with pytest.raises(ValueError, match=r"Linear.*HyperConnections"), sm.diagnostics.trace(nn.Linear(2, 2)):
        pass
    with pytest.raises(TypeError, match="got function"), sm.diagnostics.trace(lambda x: x):
        pass
    network = Network()
    with sm.diagnostics.trace(network) as trace:
        pass
    with pytest.raises(ValueError, match="got no calls"):
        trace.sites()
    with sm.diagnostics.trace(network) as trace:
        network.first(torch.randn(2, STREAMS, DIM))
        network(torch.randn(2, DIM))
    with pytest.raises(ValueError, match="trace them apart"):
        trace.sites()
