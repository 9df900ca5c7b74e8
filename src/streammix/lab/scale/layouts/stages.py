"""--parallel pp: a pipeline of stages."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from streammix.distributed import StackStage, StageRule, stage_rules
from streammix.lab.model import GPT, PlainStack, rotations
from streammix.lab.scale.layouts.base import Layout
from streammix.lab.text import Windows

BLOCK = 2  # sites: attention and MLP


class Stages(Layout):
    """Each process has its blocks; the first embeds and begins the streams, the last ends them and has norm and head.

    A batch runs as micro-batches, one forward and one backward at a time.
    """

    equal = False

    def spread(self, model: GPT) -> None:
        team = self.team
        self.rule = stage_rules(len(model.stack.sites), team.world, block=BLOCK)[team.rank]
        self.module = self.part = GPTStage(model, self.rule).to(team.device)
        stage = PipelineStage(self.part, team.rank, team.world, team.device, group=team.mesh.get_group())
        kind = Schedule1F1B if self.parts >= team.world else ScheduleGPipe
        self.schedule = kind(stage, self.parts, cross_entropy)

    def backward(self, batch: Windows) -> Tensor:
        inputs, targets = self.here(batch)
        losses: list[Tensor] = []
        with self.rounding():
            self.schedule.step(
                *[inputs] * self.rule.first,
                target=targets if self.rule.last else None,
                losses=losses if self.rule.last else None,
                return_outputs=False,
            )
        return torch.stack(losses).mean().detach() if losses else torch.zeros((), device=self.team.device)

    @torch.no_grad()
    def measure(self, batch: Windows) -> Tensor:
        inputs, targets = self.here(batch)
        rank, group = self.team.rank, self.team.mesh.get_group()
        state: tuple[Tensor, ...] = (inputs,)
        if not self.rule.first:
            shapes = self.part.stack.state_shapes(*inputs.shape)
            state = tuple(torch.empty(shape, device=self.team.device) for shape in shapes)
            for tensor in state:
                dist.recv(tensor, rank - 1, group=group)
        with self.rounding():
            out = self.part(*state)
        if self.rule.last:
            return cross_entropy(out, targets) * len(inputs)
        for tensor in out if isinstance(out, tuple) else (out,):
            dist.send(tensor.contiguous(), rank + 1, group=group)
        return torch.zeros((), device=self.team.device)


class GPTStage(nn.Module):
    """One stage's part of a GPT: bytes or a state -> a state or logits. Parameters have the names of the whole."""

    def __init__(self, model: GPT, rule: StageRule) -> None:
        super().__init__()
        self.rule, self.width = rule, model.config.dim // model.config.heads
        if rule.first:
            self.embed = model.embed
        whole = model.stack
        self.stack = (
            PlainStage(whole, rule, model.config.dim) if isinstance(whole, PlainStack) else StackStage(whole, rule)
        )
        if rule.last:
            self.norm, self.head = model.norm, model.head

    def forward(self, *state: Tensor) -> Any:
        rotation = rotations(state[0].shape[1], self.width, state[0].device)
        if self.rule.first:
            state = (self.embed(*state),)
        out = self.stack(*state, args=(rotation,))
        return self.head(self.norm(out)) if self.rule.last else out


class PlainStage(nn.Module):
    """One stage's part of a plain residual network."""

    def __init__(self, stack: PlainStack, rule: StageRule, dim: int) -> None:
        super().__init__()
        self.sites = nn.ModuleDict({str(site): stack.sites[site] for site in rule.sites})
        self.dim = dim

    def state_shapes(self, *leading: int) -> tuple[torch.Size, ...]:
        return (torch.Size((*leading, self.dim)),)

    def forward(self, x: Tensor, args: tuple[Any, ...] = ()) -> Tensor:
        for site in self.sites.values():
            x = site(x, *args)
        return x


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats a byte, in float32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
