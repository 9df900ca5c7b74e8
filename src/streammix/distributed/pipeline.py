"""Pipelines: which stage does what with the streams, and a stage's part of a Stack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_integer
from ..layers import Connection, Stack, fused
from ..layers.connections import State
from ..layers.keywords import accepted, divided


@dataclass(frozen=True)
class StageRule:
    """What one stage of a pipeline does.

    Attributes:
        index, count: this stage, and how many there are.
        sites: those of the whole network's sites that it has, in order.
    """

    index: int
    count: int
    sites: range

    @property
    def first(self) -> bool:
        """Whether it embeds and begins the streams: (..., C) -> (..., n, C). No other stage does."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether it ends the streams, (..., n, C) -> (..., C), and has what follows: norm and head. No other does."""
        return self.index == self.count - 1


def stage_rules(
    sites: int, stages: int, *, block: int = 1, boundaries: Sequence[int] | None = None
) -> tuple[StageRule, ...]:
    """Cut a network of `sites` connections into the stages of a pipeline.

        0     embeds, begins the streams, runs its sites                        sends (..., n, C)
        k     takes (..., n, C), runs its sites, begins and ends nothing        sends (..., n, C)
        last  takes (..., n, C), runs its sites, ends the streams, norm, head

    What passes is the state as it is, n times as wide as without connections. Wirings that carry read weights from site
    to site ("single-pass") send these, (..., n), beside it.

    Args:
        sites: of the whole network.
        stages: how many.
        block: sites that stay together: 2 where a Transformer block has two. Stages get equal numbers of blocks; where
            that does not come out even, the first ones get one more, because the last has norm and head besides.
        boundaries: the first site of every stage but the first, in place of an even cut.

    Raises:
        TypeError: a number is no integer.
        ValueError: more stages than blocks; sites that are no whole blocks; boundaries that are not `stages - 1`
            increasing numbers of blocks' first sites.
    """
    for name, number in (("sites", sites), ("stages", stages), ("block", block)):
        check_integer(name, number, 1)
    if sites % block:
        raise ValueError(f"sites: got {sites}, in blocks of {block}; accepted: a multiple of {block}")
    if stages > sites // block:
        raise ValueError(f"stages: got {stages} for {sites // block} blocks; accepted: 1 to {sites // block}")
    if boundaries is None:
        size, longer = divmod(sites // block, stages)
        cuts = [block * (stage * size + min(stage, longer)) for stage in range(stages + 1)]
    else:
        cuts = [0, *boundaries, sites]
        increasing = all(one < next_one for one, next_one in pairwise(cuts))
        if len(cuts) != stages + 1 or not increasing or any(cut % block for cut in cuts):
            raise ValueError(
                f"boundaries: got {list(boundaries)}; accepted: {stages - 1} increasing multiples of {block} between 0"
                f" and {sites}"
            )
    return tuple(StageRule(stage, stages, range(cuts[stage], cuts[stage + 1])) for stage in range(stages))


class StackStage(nn.Module):
    """One stage's part of a Stack: its own sites, and the streams' end if it is the last.

        rule = stage_rules(len(stack), stages)[rank]
        part = StackStage(stack, rule)
        state = part(x)                # the first: (..., C) -> (..., n, C)
        state = part(*state)           # the others: what the stage before returned
        y = part(*state)               # the last: -> (..., C)

    Sites and parameters are the stack's own and keep their names: "sites.5.logits.weight" is on the stage that has site
    5, so a checkpoint of the whole and the checkpoints of the stages are of one piece. Build the stack on the meta
    device, or on the CPU, where it is too big for a device.

    Args:
        stack: the whole Stack. Not changed.
        rule: one of `stage_rules`, with as many sites.

    Call: part(*state, args=(), **kwargs) -> state. A state is one tensor, or several where the wiring carries weights
    or outputs: then the stage returns a tuple, as torch.distributed.pipelining sends it. args and kwargs go to the
    branches as Stack's do. What a branch returns beside its first output is dropped.

    Raises:
        TypeError: stack is no Stack. At the call: another number of tensors.
        ValueError: a rule for another number of sites. At the call: a state of another shape.
    """

    def __init__(self, stack: Stack, rule: StageRule) -> None:
        super().__init__()
        if not isinstance(stack, Stack):
            raise TypeError(f"stack: got {type(stack).__name__}; accepted: a streammix.Stack")
        if rule.sites.stop > len(stack) or (rule.last and rule.sites.stop != len(stack)):
            raise ValueError(
                f"rule: got sites {rule.sites.start} to {rule.sites.stop - 1} of stage {rule.index + 1} of"
                f" {rule.count}; accepted: those of stage_rules({len(stack)}, stages), because this stack has"
                f" {len(stack)} sites"
            )
        self.rule, self.recompute = rule, stack.recompute
        self.dim, self.streams, self.channel_dim = stack.dim, stack.streams, stack.channel_dim
        self.keywords = [accepted(site.branch) for site in stack]
        self.sites = nn.ModuleDict({str(site): stack[site] for site in rule.sites})
        self.taken_sizes = stack[rule.sites.start].state_sizes()
        self.sent_sizes = () if rule.last else stack[rule.sites.stop].state_sizes()
        if rule.last:
            self.collapse = stack.collapse

    @property
    def connections(self) -> list[Connection]:
        """This stage's sites, in order."""
        return [site for site in self.sites.values() if isinstance(site, Connection)]

    def state_shapes(self, *leading: int) -> tuple[torch.Size, ...]:
        """The shapes of a state before this stage's first site, for tokens of these leading dimensions: what the stage
        before sends. For buffers; torch.distributed.pipelining finds them out by itself."""
        return tuple(torch.Size((*leading, *sizes)) for sizes in self.taken_sizes)

    def sent_shapes(self, *leading: int) -> tuple[torch.Size, ...]:
        """The shapes of the state that this stage sends on; none of the last stage."""
        return tuple(torch.Size((*leading, *sizes)) for sizes in self.sent_sizes)

    def forward(self, *state: Tensor, args: tuple[Any, ...] = (), **kwargs: Any) -> Any:
        out = self.run(self.begin(*state) if self.rule.first else self.taken(state), args, kwargs)
        return self.end(out) if self.rule.last else out

    def begin(self, *inputs: Tensor) -> State:
        if len(inputs) != 1:
            raise TypeError(f"state: got {len(inputs)} tensors; the first stage accepts one, (..., C)")
        (x,) = inputs
        return self.connections[0].begin(x if self.channel_dim == -1 else x.movedim(self.channel_dim, -1))

    def taken(self, state: tuple[Tensor, ...]) -> State:
        """The state that the stage before sent."""
        accepted = self.taken_sizes
        if len(state) != len(accepted):
            raise TypeError(f"state: got {len(state)} tensors; stage {self.rule.index} accepts {len(accepted)}")
        for part, sizes in zip(state, accepted):
            if part.shape[-len(sizes) :] != sizes:
                raise ValueError(
                    f"state: got shape {tuple(part.shape)}; stage {self.rule.index} accepts streams (...,"
                    f" {', '.join(map(str, sizes))}), which stage 0 begins"
                )
        return state if len(state) > 1 or self.connections[0].carries else state[0]

    def run(self, state: State, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> State:
        """This stage's sites in order, fused where the whole stack fuses them."""
        sites = self.connections
        own = divided(kwargs or {}, self.keywords)[self.rule.sites.start : self.rule.sites.stop]
        if all(site.fuses for site in sites):
            kept = fused.kept_states(self.streams, len(sites), self.recompute) if self.recompute else frozenset()
            return fused.run(sites, state, args, own, kept=kept)[0]
        for site, keywords in zip(sites, own):
            state, _ = site.split(site(state, *args, **keywords))
        return state

    def end(self, state: State) -> Tensor:
        y: Tensor = self.collapse(state)
        return y if self.channel_dim == -1 else y.movedim(-1, self.channel_dim)

    def extra_repr(self) -> str:
        first, last = self.rule.sites.start, self.rule.sites.stop - 1
        return f"stage {self.rule.index + 1} of {self.rule.count}: sites {first} to {last}"
