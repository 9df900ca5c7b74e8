"""What `sm.transport` is for, beside unrolled Sinkhorn and, where it is installed, POT."""

import pytest
import torch

import streammix as sm
from streammix.bench.run import bench
from streammix.bench.transport.contenders import OURS, contenders, plain_sinkhorn, pot
from streammix.bench.transport.problems import PROBLEMS, matching, routing, slots, sorting
from streammix.lab.errors import LabError


def test_balanced_routing(seed):
    """All experts get as many tokens, and the router learns through the plan: its load is even whatever it favours."""
    logits, rows, columns = routing(20)
    plan = sm.transport(logits.requires_grad_(), rows, columns)
    torch.testing.assert_close(plan.sum(-2), columns, rtol=1e-6, atol=0)
    torch.testing.assert_close(plan.sum(-1), rows, rtol=1e-6, atol=0)
    assert (logits.softmax(-1).sum(-2) - columns).abs().max() > 1  # without it, it is not
    value = torch.randn_like(logits)
    (grad,) = torch.autograd.grad((plan * value).sum(), logits)
    assert grad.sum((-1, -2)).abs().max() < 1e-4  # a favour to all tokens alike changes nothing


def test_capacity_limits_are_a_column_of_unused_capacity(seed):
    """Experts' loads at most their capacities, where what is unused has an entropy of its own: one more token, which
    takes what is left."""
    logits, rows, _ = routing(4, tokens=16, experts=4)
    capacity = torch.full((4, 4), 5.0)
    unused = (capacity.sum(-1) - rows.sum(-1)).unsqueeze(-1)
    plan = sm.transport(torch.cat([logits, torch.zeros(4, 1, 4)], -2), torch.cat([rows, unused], -1), capacity)
    load = plan[:, :-1].sum(-2)
    torch.testing.assert_close(load + plan[:, -1], capacity, rtol=1e-6, atol=0)
    assert (load < capacity).all()


def test_slot_attention_with_balanced_slots(seed):
    """A step of slot attention whose slots all explain as much; attention over slots alone leaves some with little."""
    logits, rows, columns = slots(10)
    values = torch.randn(10, 64, 32)
    plan = sm.transport(logits, rows, columns)
    updates = (plan / plan.sum(-2, keepdim=True)).mT @ values
    assert updates.shape == (10, 7, 32)
    share = plan.sum(-2) / 64
    torch.testing.assert_close(share, torch.full((10, 7), 1 / 7), rtol=1e-6, atol=0)
    assert (logits.softmax(-1).mean(-2) - share).abs().max() > 0.02


def test_soft_matching_finds_the_order(seed):
    """Points and their copies in another order, with little noise: the plan is nearly that permutation."""
    logits, rows, columns = matching(20, noise=0.01, temperature=1e-4)
    plan = sm.transport(logits, rows, columns)
    torch.testing.assert_close(plan, sm.birkhoff(logits), rtol=2e-5, atol=1e-12)
    assert (plan.argmax(-1).sort(-1).values == torch.arange(16)).all()
    unrolled = plain_sinkhorn(logits, rows, columns)
    assert (unrolled.sum(-1) - 1).abs().max() > 100 * (plan.sum(-1) - 1).abs().max()


@pytest.mark.parametrize("n", [5, 16, 40])
def test_soft_sorting_becomes_sorting(n, seed):
    """As the temperature falls, P'x is x sorted; its derivative is then the permutation."""
    x = torch.arange(n) / n + 0.3 / n * torch.rand(n)
    x = x[torch.randperm(n)].requires_grad_()
    soft = lambda t: sm.transport(-(t.unsqueeze(-1) - torch.linspace(0, 1, n)).square() * n**2 * 30, *torch.ones(2, n))  # noqa: E731
    ordered = soft(x).mT @ x
    torch.testing.assert_close(ordered, x.sort().values, rtol=1e-4, atol=1e-4)
    (grad,) = torch.autograd.grad(ordered[0], x)
    assert grad.argmax() == x.argmin()


def test_beside_pot(seed):
    """The same plans, as near as it comes (sharp ones, not very); ours with sums to rounding."""
    pytest.importorskip("ot")
    for draw, near in ((routing, 0.01), (slots, 0.01), (sorting, 0.2), (PROBLEMS["random 4 x 4"].draw, 0.01)):
        logits, rows, columns = draw(5)
        theirs, ours = pot(logits, rows, columns), sm.transport(logits, rows, columns)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=near * rows.max().item())
        off = lambda T: ((T.sum(-2) - columns) / columns).abs().max() + ((T.sum(-1) - rows) / rows).abs().max()  # noqa: B023, E731
        assert off(ours) < 2e-6
        assert off(ours) <= off(theirs) + 1e-6


def test_contenders_solve_the_same(seed):
    drawn = PROBLEMS["random 4 x 4"].draw(50)
    for name, project in contenders(compile=False).items():
        torch.testing.assert_close(project(*drawn), sm.transport(*drawn), rtol=0, atol=1e-4, msg=name)


def test_bench(tmp_path, capsys):
    options = {"problem": ("random 4 x 4", "routing 64 x 8"), "count": 8, "turns": 1, "compile": False}
    results = bench("transport", options=options, json_path=tmp_path / "bench.json")
    ours = [row for row in results["accuracy"] if row["contender"] == OURS]
    assert len(ours) == 2
    assert all(row["columns max"] < 1e-6 and row["entries max"] < 2e-5 for row in ours)
    assert all(row["us_per_matrix"] > 0 for row in results["speed"])
    assert all(row["peak_over_logits"] > 1 for row in results["memory"])
    assert "Relative errors" in capsys.readouterr().out
    with pytest.raises(LabError, match=r"--problem: there is no problem 'x'; accepted: random 4 x 4"):
        bench("transport", options={"problem": ("x",)})
