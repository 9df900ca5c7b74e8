"""--parallel tp: tensor parallelism of branches, streams sharded on tokens."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Placement

from streammix import distributed
from streammix.lab.errors import LabError
from streammix.lab.model import GPT, MLP, Attention, PlainStack
from streammix.lab.scale.layouts.base import Layout
from streammix.lab.text import Windows

#: Matrices that make several outputs at once, and how many.
FUSED = {"qkv": 3, "gate_up": 2}


class Tokens(Layout):
    """Each process has its heads and hidden units of every branch, and its tokens of every stream; all have the whole
    batch. Connections are replicated."""

    def spread(self, model: GPT) -> None:
        mesh, world = self.team.mesh, self.team.world
        self.module = self.model = model.to(self.team.device)
        for module in model.modules():
            if isinstance(module, Attention):
                module.heads //= world
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parts := fused(name):
                    parameter.copy_(by_process(parameter, parts, world))
        parallelize_module(model, mesh, plan(model))
        if plain := [name for name, p in model.named_parameters() if not isinstance(p, DTensor)]:
            raise LabError(f"--parallel tp: no rule for {plain[0]} ({len(plain)} such); accepted: ddp, fsdp, pp")
        self.require_rules()

    def require_rules(self) -> None:
        """Raise LabError unless torch has rules for all that this recipe computes, by one step of one window."""
        tokens = torch.zeros(1, self.config.context, dtype=torch.int64, device=self.team.device)
        try:
            self.model.loss(tokens, tokens).backward()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # in all processes alike, and of many kinds
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise LabError(
                f"--parallel tp: recipe {self.config.recipe} can't be sharded on tokens ({reason}); accepted: ddp,"
                " fsdp, pp"
            ) from None
        self.model.zero_grad()

    def backward(self, batch: Windows) -> Tensor:
        inputs, targets = self.here(batch)
        total = torch.zeros((), device=self.team.device)
        for some, wanted in zip(inputs.chunk(self.parts), targets.chunk(self.parts)):
            with self.rounding():
                loss = self.model.loss(some, wanted)
            (loss / self.parts).backward()
            total += loss.detach()
        distributed.reduce_gradients(self.module)
        return total / (self.parts * self.team.world)

    @torch.no_grad()
    def measure(self, batch: Windows) -> Tensor:
        inputs, targets = self.here(batch)
        with self.rounding():
            return self.model.loss(inputs, targets) * len(inputs) / self.team.world

    def saved(self, name: str, tensor: Tensor) -> Tensor:
        if (parts := fused(name)) and isinstance(tensor, DTensor):
            whole = as_one(tensor.full_tensor(), parts, self.team.world)
            return distribute_tensor(whole, self.team.mesh, [Shard(0)], src_data_rank=None)
        return tensor

    def loaded(self, name: str, tensor: Tensor) -> Tensor:
        if (parts := fused(name)) and isinstance(tensor, DTensor):
            whole = by_process(tensor.full_tensor(), parts, self.team.world)
            return distribute_tensor(whole, self.team.mesh, [Shard(0)], src_data_rank=None)
        return tensor


def plan(model: GPT) -> dict[str, ParallelStyle]:
    """The styles of all modules, as torch's `parallelize_module` takes them."""
    own_tokens = Shard(1)

    def ending(entry: Placement | None = None) -> ParallelStyle:
        return RowwiseParallel(input_layouts=entry, output_layouts=own_tokens, use_local_output=False)

    def inside(wide: str) -> dict[str, ParallelStyle]:
        return {
            "norm": SequenceParallel(),
            wide: ColwiseParallel(input_layouts=own_tokens),
            "out": ending(),
        }

    branches = {Attention: inside("qkv"), MLP: inside("gate_up")}
    if isinstance(model.stack, PlainStack):
        sites = dict(model.stack.sites.named_children())
        styles = {
            f"stack.sites.{site}.branch.{name}": style
            for site, residual in sites.items()
            for name, style in branches[type(residual.branch)].items()
        }
    else:
        styles = distributed.token_plan(model, branches)
    return styles | {
        "embed": ending(Replicate()),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=own_tokens, output_layouts=Replicate()),
    }


def fused(name: str) -> int:
    """How many outputs the parameter of this name makes at once; 0 for others."""
    return next((parts for part, parts in FUSED.items() if name.endswith(f".{part}.weight")), 0)


def by_process(rows: Tensor, parts: int, world: int) -> Tensor:
    """Rows (parts, world, some) as (world, parts, some): what is cut in `world` then has a piece of every part."""
    return rows.unflatten(0, (parts, world, -1)).transpose(0, 1).flatten(0, 2)


def as_one(rows: Tensor, parts: int, world: int) -> Tensor:
    """The inverse of `by_process`."""
    return rows.unflatten(0, (world, parts, -1)).transpose(0, 1).flatten(0, 2)
