"""Pipelines: the stages together are the whole network, and only the first and the last begin and end the streams."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import together
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

import streammix as sm
from streammix.distributed import StackStage, stage_rules

DIM = 16


def branch() -> nn.Module:
    return nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, DIM), nn.GELU())


def stack(recipe: str = "mhc", sites: int = 4, **options: Any) -> sm.Stack:
    return sm.Stack([branch() for _ in range(sites)], DIM, recipe=recipe, **options)


def cuts(*args: Any, **kwargs: Any) -> list[tuple[int, int]]:
    return [(rule.sites.start, rule.sites.stop) for rule in stage_rules(*args, **kwargs)]


def test_stages_have_equal_numbers_of_blocks_and_the_first_ones_one_more() -> None:
    assert cuts(8, 2) == [(0, 4), (4, 8)]
    assert cuts(10, 4, block=2) == [(0, 4), (4, 6), (6, 8), (8, 10)]
    assert cuts(3, 1) == [(0, 3)]
    assert cuts(8, 3, block=2, boundaries=[2, 4]) == [(0, 2), (2, 4), (4, 8)]


def test_the_first_stage_begins_the_streams_and_the_last_ends_them() -> None:
    rules = stage_rules(6, 3)
    assert [rule.first for rule in rules] == [True, False, False]
    assert [rule.last for rule in rules] == [False, False, True]
    (only,) = stage_rules(6, 1)
    assert only.first
    assert only.last


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, 5), {}, "stages: got 5 for 4 blocks; accepted: 1 to 4"),
        ((5, 2), {"block": 2}, "sites: got 5, in blocks of 2; accepted: a multiple of 2"),
        ((8, 2), {"boundaries": [8]}, r"boundaries: got \[8\]; accepted: 1 increasing multiples of 1 between 0 and 8"),
        ((8, 3), {"boundaries": [4, 2]}, "boundaries"),
        ((8, 2), {"boundaries": [3], "block": 2}, "boundaries"),
        ((8, 2), {"boundaries": [2, 4]}, "boundaries"),
        ((0, 1), {}, "sites: got 0"),
        ((4, True), {}, "stages: got True"),
    ],
)
def test_cuts_that_are_refused(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage_rules(*arguments, **options)


@pytest.mark.parametrize("recipe", sm.recipes.names())
@pytest.mark.parametrize("stages", [2, 3])
def test_the_stages_one_after_the_other_are_the_whole_stack(recipe: str, stages: int, seed: int) -> None:
    whole = stack(recipe)
    parts = [StackStage(whole, rule) for rule in stage_rules(4, stages)]
    x = torch.randn(2, 5, DIM)
    state: Any = (x,)
    for part in parts:
        if not part.rule.first:
            assert tuple(t.shape for t in state) == part.state_shapes(2, 5)
        out = part(*state)
        state = out if isinstance(out, tuple) else (out,)
        if not part.rule.last:
            assert tuple(t.shape for t in state) == part.sent_shapes(2, 5)
    torch.testing.assert_close(state[0], whole(x))
    torch.testing.assert_close(state[0].sum(), whole(x).sum())


def test_parameters_keep_their_names_and_each_has_one_stage(seed: int) -> None:
    whole = stack("deepseek-v4")
    names = [name for rule in stage_rules(4, 3) for name, _ in StackStage(whole, rule).named_parameters()]
    assert sorted(names) == sorted(name for name, _ in whole.named_parameters())
    assert StackStage(whole, stage_rules(4, 2)[1]).state_dict().keys() == {
        name for name in whole.state_dict() if not name.startswith(("sites.0", "sites.1"))
    }


def test_keyword_arguments_go_to_the_branches_that_take_them(seed: int) -> None:
    class Shifted(nn.Linear):
        def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
            return super().forward(x) + shift

    whole = sm.Stack([nn.Linear(DIM, DIM), Shifted(DIM, DIM)], DIM)
    first, second = (StackStage(whole, rule) for rule in stage_rules(2, 2))
    x = torch.randn(3, DIM)
    torch.testing.assert_close(second(first(x, shift=2.0), shift=2.0), whole(x, shift=2.0))
    with pytest.raises(TypeError, match="shfit: no branch"):
        first(x, shfit=2.0)


def test_states_that_a_stage_refuses(seed: int) -> None:
    whole = stack()
    first, last = (StackStage(whole, rule) for rule in stage_rules(4, 2))
    x = torch.randn(2, 5, DIM)
    with pytest.raises(
        ValueError, match=r"state: got shape \(2, 5, 16\); stage 1 accepts streams \(..., 4, 16\), which"
    ):
        last(x)
    with pytest.raises(TypeError, match="state: got 2 tensors; stage 1 accepts 1"):
        last(first(x), x)
    with pytest.raises(TypeError, match="state: got 2 tensors; the first stage accepts one"):
        first(x, x)
    with pytest.raises(ValueError, match=r"rule: got sites 3 to 5 of stage 2 of 2; accepted: those of stage_rules\(4"):
        StackStage(whole, stage_rules(6, 2)[1])
    with pytest.raises(TypeError, match="stack: got Linear"):
        StackStage(nn.Linear(2, 2), stage_rules(2, 1)[0])  # type: ignore[arg-type]


def test_a_stage_rebuilds_its_states(seed: int) -> None:
    whole = stack(sites=6, recompute=2)
    x = torch.randn(2, 5, DIM)
    whole(x).square().mean().backward()
    expected = [p.grad.clone() for p in whole.parameters()]
    whole.zero_grad()
    state = x
    for rule in stage_rules(6, 2):
        state = StackStage(whole, rule)(state)
    state.square().mean().backward()
    for p, grad in zip(whole.parameters(), expected):
        torch.testing.assert_close(p.grad, grad)


def in_a_pipeline(mesh: Any) -> None:
    """Losses and gradients of a schedule are those of the whole network on the whole batch."""
    rank = dist.get_rank()
    for recipe in ("mhc", "deepseek-v4", "deepseek-v4.1", "xhc"):
        for kind in (ScheduleGPipe, Schedule1F1B):
            torch.manual_seed(0)
            whole = stack(recipe)
            x, target = torch.randn(4, 5, DIM), torch.randn(4, 5, DIM)
            expected = F.mse_loss(whole(x), target)
            expected.backward()
            gradients = {name: p.grad for name, p in whole.named_parameters()}
            whole.zero_grad()
            part = StackStage(whole, stage_rules(4, 2)[rank])
            schedule = kind(PipelineStage(part, rank, 2, torch.device("cpu")), 2, F.mse_loss)
            losses: list[Tensor] = []
            if rank == 0:
                schedule.step(x)
            else:
                schedule.step(target=target, losses=losses)
                torch.testing.assert_close(torch.stack(losses).mean(), expected)
            for name, p in part.named_parameters():
                if p.grad is not None or gradients[name] is not None:
                    torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=f"{recipe} {name}")


@pytest.mark.slow
def test_two_processes_run_a_pipeline(tmp_path: Path) -> None:
    together(in_a_pipeline, tmp_path)
