"""Fully sharded data parallelism (FSDP2), with the parameters of connections in float32."""

from collections.abc import Collection

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from ..layers import Connection, Stack
from .islands import Chosen, Part, parts, require_float32, require_found

#: What reads an island's parameters beside `forward`; FSDP has to gather them before these, too.
ENTRANCES = {Stack: ("run", "states"), Connection: ("connect",)}


def islands(model: nn.Module, float32: Chosen = ()) -> dict[str, nn.Module]:
    """The modules whose parameters `shard` keeps in float32, by name, those inside others first.

    For engines other than FSDP2: give each a float32 policy of its own before whatever contains it gets one. A Stack is
    one island; its branches are none.

    Args:
        model: any module.
        float32: further modules, by class or by name.
    """
    require_found("float32", float32, model)
    return {part.name: part.module for part in parts(model, (), float32) if part.kind == "island"}


def shard(
    model: nn.Module,
    mesh: DeviceMesh,
    *,
    mp_policy: MixedPrecisionPolicy | None = None,
    units: Chosen = (),
    float32: Chosen = (),
    reshard_after_forward: bool | int | None = None,
    offload_policy: OffloadPolicy | None = None,
    ignored_params: Collection[nn.Parameter] = (),
) -> nn.Module:
    """Shard a model in place with torch's `fully_shard`, its connections in float32 whatever `mp_policy` says.

        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        sm.distributed.shard(model, mesh, mp_policy=policy, units=[Block])

    Sharded by themselves, in this order: every branch of a connection and every unit by `mp_policy`; every island in
    float32, its gradients reduced in float32; the model itself, with all that is left. An island is wrapped before what
    contains it, because FSDP gives a parameter the policy of the innermost module that was wrapped. See `islands`.

    An island casts nothing: streams keep the dtype that the model gives them, and its parameters, which are few, stay
    gathered between forward and backward pass. Sites of a Stack are fused, and `recompute` works, as without FSDP.
    Sites that a model opens by `connect` are gathered there.

    Args:
        model: with or without connections; may be on the meta device. Under tensor parallelism, parallelised before.
        mesh: of one dimension, or of two for hybrid sharding: (replicas, shards).
        mp_policy: of all that is no island; None computes in the parameters' own dtype.
        units: what else to shard by itself, by class or name: a model's blocks, mostly.
        float32: further islands, by class or name. Those that a model of transformers keeps in float32 by
            `_keep_in_fp32_modules_strict` are islands without being named.
        reshard_after_forward, offload_policy: as `fully_shard` takes them; the first is not for islands.
        ignored_params: parameters that FSDP is to leave alone.

    Returns:
        The model.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a mesh of other dimensions; a model, or a part of it, that is sharded already; a class or a name
            that the model does not have; a parameter of an island that is narrower than float32. The model is left as
            it was then.
    """
    check(model, mesh)
    for name, choice in (("units", units), ("float32", float32)):
        require_found(name, choice, model)
    found = parts(model, units, float32)
    require_float32(found)
    if not found or found[-1].module is not model:
        found.append(Part("", model, "unit"))

    policy = mp_policy or MixedPrecisionPolicy()
    island = MixedPrecisionPolicy(param_dtype=None, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in found:
        of_island = part.kind == "island"
        fully_shard(
            part.module,
            mesh=mesh,
            mp_policy=island if of_island else policy,
            reshard_after_forward=False if of_island else reshard_after_forward,
            offload_policy=offload_policy or OffloadPolicy(),
            ignored_params=set(ignored_params) or None,
        )
        assert isinstance(part.module, FSDPModule)
        register_entrances(part.module)
    return model


def check(model: nn.Module, mesh: DeviceMesh) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; accepted: a module")
    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh: got {type(mesh).__name__}; accepted: a DeviceMesh, of init_device_mesh say")
    if mesh.ndim > 2:
        raise ValueError(
            f"mesh: got {mesh.ndim} dimensions; accepted: 1 (shards) or 2 (replicas, shards); mesh['dp'] takes one out"
        )
    for name, module in model.named_modules():
        if isinstance(module, FSDPModule):
            raise ValueError(f"model: {name or type(model).__name__} is sharded already; accepted: a model that is not")


def register_entrances(module: nn.Module) -> None:
    """Have FSDP gather the parameters before the module's other methods that read them."""
    for kind, methods in ENTRANCES.items():
        if isinstance(module, kind):
            for method in methods:
                register_fsdp_forward_method(module, method)
