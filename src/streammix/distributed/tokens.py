"""Tensor and sequence parallelism: streams sharded on tokens, connections replicated, branches as torch shards them."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle

from .._checks import check_integer
from ..layers import Connection, Stack

#: Styles of the modules inside a branch, by their names there, as parallelize_module takes them.
Plan = Mapping[str, ParallelStyle]


class TokenParallel(ParallelStyle):
    """A style of torch's `parallelize_module` for a Stack or a connection: its streams are sharded on tokens.

        (..., T, C) sharded on T -> streams (..., T, n, C) sharded on T -> (..., T, C) sharded on T

    Parameters of connections become replicated DTensors, those of branches are left to the branches' own styles. What a
    token reads, writes and mixes depends on no other token, so the sites send nothing. Their gradients are summands of
    the devices' tokens: call `reduce_gradients` before the optimiser's step.

    Args:
        token_dim: which dimension of the input is sharded, counted from the left: 1 for (B, T, C).
        use_local_output: whether to return this device's tokens as a plain tensor instead of a DTensor.

    Raises:
        TypeError: applied to another kind of module.
        ValueError: at the call, an input without such a dimension, or without one after it for channels.
    """

    def __init__(self, token_dim: int = 1, *, use_local_output: bool = False) -> None:
        check_integer("token_dim", token_dim, 0)
        self.token_dim, self.use_local_output = token_dim, use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, Stack | Connection):
            raise TypeError(f"module: got {type(module).__name__}; TokenParallel accepts a Stack or a connection")
        replicate(module, device_mesh, self.src_data_rank)
        placements = [Shard(self.token_dim)]

        def sharded(x: Any) -> Any:
            if not isinstance(x, Tensor) or not x.is_floating_point():
                return x
            if x.ndim < self.token_dim + 2:
                raise ValueError(
                    f"x: got shape {tuple(x.shape)}; accepted: tokens in dimension {self.token_dim}, then C"
                )
            if isinstance(x, DTensor):
                return x.redistribute(placements=placements)
            return DTensor.from_local(x, device_mesh, placements, run_check=False)

        def begin(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, *further = inputs
            state = tuple(map(sharded, x)) if isinstance(x, tuple) else sharded(x)
            return (state, *further)

        def end(module: nn.Module, inputs: Any, output: Any) -> Any:
            return local(output)

        module.register_forward_pre_hook(begin)
        if self.use_local_output:
            module.register_forward_hook(end)
        return module


class ReplicateParallel(ParallelStyle):
    """A style of torch's `parallelize_module`: the module's parameters become replicated DTensors, for what works on
    DTensors by torch's own rules."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        replicate(module, device_mesh, self.src_data_rank)
        return module


def local(output: Any) -> Any:
    """A DTensor's part on this device; of a tuple, each one's."""
    if isinstance(output, tuple):
        return tuple(map(local, output))
    return output.to_local() if isinstance(output, DTensor) else output


def replicate(module: nn.Module, mesh: DeviceMesh, src_data_rank: int | None = 0) -> None:
    """Make the parameters and buffers of a module replicated DTensors, in place, but not those of branches.

    Rank `src_data_rank` of the mesh has the values; None takes each rank's own, which must be equal.
    """
    for part in without_branches(module):
        for name, parameter in part.named_parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                whole = distribute_tensor(parameter.detach(), mesh, [Replicate()], src_data_rank=src_data_rank)
                part.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            if not isinstance(buffer, DTensor):
                whole = distribute_tensor(buffer, mesh, [Replicate()], src_data_rank=src_data_rank)
                part.register_buffer(name, whole, persistent=name not in part._non_persistent_buffers_set)


def without_branches(module: nn.Module) -> list[nn.Module]:
    """The module and all inside it, branches of connections left out."""
    found = [module]
    for child in module.children():
        if not (isinstance(module, Connection) and child is module.branch):
            found += without_branches(child)
    return found


def token_plan(
    model: nn.Module, branches: Mapping[type[nn.Module], Plan] | None = None, *, token_dim: int = 1
) -> dict[str, ParallelStyle]:
    """A plan of torch's `parallelize_module` for the stacks of a model and the branches in them.

        attention = {"norm": SequenceParallel(), "qkv": ColwiseParallel(input_layouts=Shard(1)), ...}
        plan = sm.distributed.token_plan(model, {Attention: attention, MLP: mlp})
        parallelize_module(model, mesh, plan | {"embed": RowwiseParallel(...), "norm": SequenceParallel(), ...})

    A branch gets its tokens as a DTensor that is sharded on `token_dim`, and must return one: end it in
    `RowwiseParallel(output_layouts=Shard(token_dim), use_local_output=False)`.

    Args:
        model: has Stacks, and connections outside of them that are called as modules.
        branches: for each class of branches, the styles of the modules inside, by their names there. Branches of other
            classes are replicated, and work on their tokens by torch's own rules for DTensors.
        token_dim: of the streams' input (B, T, C).

    Raises:
        ValueError: a model without connections; a class of which no branch is; a name that a branch does not have.
    """
    branches = branches or {}
    plan: dict[str, ParallelStyle] = {}
    used: set[type[nn.Module]] = set()
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, Stack)}
    for name, module in model.named_modules():
        if isinstance(module, Stack):
            plan[name] = TokenParallel(token_dim)
        elif isinstance(module, Connection):
            if not any(name.startswith(f"{stack}." if stack else "") for stack in stacks):
                plan[name] = TokenParallel(token_dim)
            branch = module.branch
            if isinstance(branch, nn.Module):
                kind = next((kind for kind in branches if isinstance(branch, kind)), None)
                used |= {kind} if kind else set()
                styles = branches[kind] if kind else {"": ReplicateParallel()}
                plan |= inside(branch, f"{name}.branch" if name else "branch", styles)
    if not plan:
        raise ValueError(f"model: this {type(model).__name__} has no connections; accepted: a model with some")
    for kind in branches:
        if kind not in used:
            raise ValueError(f"branches: got {kind.__name__}, and no branch of the model is one")
    return plan


def inside(branch: nn.Module, path: str, styles: Plan) -> dict[str, ParallelStyle]:
    """The styles of a branch's modules by their names in the whole model."""
    names = {name for name, _ in branch.named_modules()}
    for name in styles:
        if name not in names:
            raise ValueError(
                f"branches: got {name!r} for {type(branch).__name__}; accepted: {', '.join(sorted(names - {''}))}"
            )
    return {f"{path}.{name}" if name else path: style for name, style in styles.items()}


@torch.no_grad()
def reduce_gradients(model: nn.Module) -> None:
    """Sum the gradients of replicated parameters over the devices, in place: one all-reduce for each mesh and dtype.

    Where streams are sharded on tokens, each device has found the summand of its own tokens. An optimiser would reduce
    such gradients too, but once for every use that it makes of them. Other gradients are left alone. FSDP does the same
    by itself for the parameters that it shards.
    """
    groups: dict[tuple[DeviceMesh, torch.dtype], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        grad = parameter.grad
        if isinstance(grad, DTensor) and any(placement.is_partial("sum") for placement in grad.placements):
            if grad.device_mesh.ndim > 1:
                parameter.grad = grad.redistribute(placements=replicated(grad))
            else:
                groups.setdefault((grad.device_mesh, grad.dtype), []).append(parameter)
    for (mesh, _), parameters in groups.items():
        summands = [parameter.grad.to_local() for parameter in parameters]  # type: ignore[union-attr]
        flat = torch.cat([summand.flatten() for summand in summands])
        dist.all_reduce(flat, group=mesh.get_group())
        for parameter, summand, total in zip(parameters, summands, flat.split([s.numel() for s in summands])):
            parameter.grad = DTensor.from_local(total.view(summand.shape), mesh, [Replicate()], run_check=False)


def replicated(grad: DTensor) -> list[Any]:
    """The placements of a gradient once its summands are summed."""
    return [Replicate() if placement.is_partial() else placement for placement in grad.placements]
