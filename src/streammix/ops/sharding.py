"""Streams that are sharded on tokens, as DTensors: each device runs the operators on its own tokens.

An operator treats tokens apart, so it takes tensors that are sharded on any leading dimension as they are, and its
outputs are sharded likewise. Its parameters (weight, gate, bias) are replicated, and what a device finds for their
gradients is a summand: a Partial. Reads and writes treat channels apart, too. Any other layout is redistributed by
DTensor to one of these.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .registry import operators

_STATE = "...nC"
_PARAMETERS = "kw g k"  # weight, gate, bias
_READ = "...C ...n ...m"  # u, post, mix
_MIXED = "...C ...n ...nn"  # u, post, res
_SAVED = "...k ..."  # P, r
_WRITTEN = "...nC ...C ...n ...nn"  # x, y, post, res
_ROW_PARAMETERS = "kw k nk"  # weight, scale, bias
_ROWS_SAVED = "...nk ...n"  # P, r

#: The dimensions of each operator's tensors, "..." being those of tokens; its tensors come before its other arguments.
DIMENSIONS = {
    "birkhoff": "...nn -> ...nn",
    "birkhoff_backward": "...nn ...nn -> ...nn",
    "sinkhorn": "...nn -> ...nn",
    "sinkhorn_backward": "...nn ...nn -> ...nn",
    "implicit_sinkhorn": "...nn -> ...nn",
    "transport": "...mn ...m ...n -> ...mn",
    "transport_backward": "...mn ...mn -> ...mn ...m ...n",
    "cayley": "...e -> ...nn",
    "cayley_backward": "...nn ...nn -> ...e",
    "chart": "...e -> ...nn",
    "chart_backward": "...nn ...e -> ...e",
    "read": f"{_STATE} ...n -> ...C",
    "read_backward": f"...C {_STATE} ...n -> {_STATE} ...n",
    "write": f"{_WRITTEN} -> {_STATE}",
    "write_backward": f"{_STATE} {_WRITTEN} -> {_WRITTEN}",
    "sparse_read": f"{_STATE} ...n ...i -> ...C ...kC",
    "sparse_read_backward": f"...C ...kC {_STATE} ...n ...i -> {_STATE} ...n",
    "sparse_write": f"{_STATE} ...vC ...kv ...kk ...i -> {_STATE}",
    "sparse_write_backward": f"{_STATE} {_STATE} ...vC ...kv ...kk ...i -> {_STATE} ...vC ...kv ...kk",
    "temporal_basis": "...sC jlC -> ...tvC",
    "temporal_basis_backward": "...tvC ...sC jlC -> ...sC jlC",
    "coefficients": f"{_STATE} kw -> {_SAVED}",
    "coefficients_backward": f"...k {_STATE} kw {_SAVED} -> {_STATE} kw",
    "site_read": f"{_STATE} {_PARAMETERS} -> {_READ} {_SAVED}",
    "site_read_backward": f"{_READ} {_STATE} {_PARAMETERS} {_SAVED} -> {_STATE} {_PARAMETERS}",
    "write_site_read": f"{_WRITTEN} {_PARAMETERS} -> {_STATE} {_READ} {_SAVED}",
    "write_site_read_backward": (
        f"{_STATE} {_READ} {_WRITTEN} {_STATE} {_PARAMETERS} {_SAVED} -> {_WRITTEN} {_PARAMETERS}"
    ),
    "mixed_site_read": f"{_STATE} {_PARAMETERS} -> {_MIXED} {_SAVED}",
    "mixed_site_read_backward": f"{_MIXED} {_STATE} {_PARAMETERS} ...nn {_SAVED} -> {_STATE} {_PARAMETERS}",
    "write_mixed_site_read": f"{_WRITTEN} {_PARAMETERS} -> {_STATE} {_MIXED} {_SAVED}",
    "write_mixed_site_read_backward": (
        f"{_STATE} {_MIXED} {_WRITTEN} {_STATE} {_PARAMETERS} ...nn {_SAVED} -> {_WRITTEN} {_PARAMETERS}"
    ),
    "write_carried_site": f"{_WRITTEN} ...n {_PARAMETERS} -> {_STATE} ...C ...n ...n ...nn {_SAVED}",
    "write_carried_site_backward": (
        f"{_STATE} ...C ...n ...n ...nn {_WRITTEN} ...n {_STATE} {_PARAMETERS} ...nn {_SAVED}"
        f" -> {_WRITTEN} ...n {_PARAMETERS}"
    ),
    "next_site": f"{_WRITTEN} {_PARAMETERS} -> {_STATE} ...C ...n ...nn",
    "rows_site_read": f"{_STATE} {_ROW_PARAMETERS} -> ...C ...n ...nn {_ROWS_SAVED}",
    "rows_site_read_backward": (
        f"...C ...n ...nn {_STATE} {_ROW_PARAMETERS} {_ROWS_SAVED} -> {_STATE} {_ROW_PARAMETERS}"
    ),
}
#: Operators that are linear in every tensor that has channels: an output without them is a sum over channels.
BY_CHANNELS = frozenset({"read", "read_backward", "write", "write_backward"})
#: Operators whose last argument says where the streams are in a state, counted from its end; dimensions of tokens may
#: follow.
ANYWHERE = BY_CHANNELS | {"rows_site_read", "rows_site_read_backward"}

_registered = False


def is_sharded(tensor: Any) -> bool:
    """Whether the tensor is a DTensor, asked without importing what that is; plain tensors are told by their type."""
    return type(tensor) is not Tensor and hasattr(tensor, "device_mesh")


def register() -> bool:
    """Tell DTensor how the operators of both namespaces are sharded, once; from then on, True.

    Late, because importing DTensor takes longer than importing all of this package.
    """
    global _registered
    if not _registered:
        from torch.distributed.tensor.experimental import register_sharding

        for namespace in operators:
            for name, dimensions in DIMENSIONS.items():
                overload = getattr(getattr(torch.ops, namespace), name).default
                rule = _rule(dimensions, by_channels=name in BY_CHANNELS, anywhere=name in ANYWHERE)
                register_sharding(overload)(rule)
        _registered = True
    return _registered


# torch.compile calls it as it is when it meets the call, instead of tracing it: torch.compiler.assume_constant_result,
# without importing the compiler.
register._dynamo_marked_constant = True  # type: ignore[attr-defined]


def by_tokens(function: Callable[[Tensor], Tensor], vectors: Any) -> Tensor:
    """function of a DTensor (..., size), on each device of its own tokens; it treats tokens apart and returns (..., *).

    For functions with tables of numbers, which DTensor's operators refuse beside DTensors.
    """
    from torch.distributed.tensor import DTensor, Replicate

    last = vectors.ndim - 1
    placements = [p if p.is_shard() and p.dim != last else Replicate() for p in vectors.placements]
    out = function(vectors.redistribute(placements=placements).to_local())
    shape = vectors.shape[:-1] + out.shape[last:]
    stride = torch.empty(shape, device="meta").stride()
    mesh = vectors.device_mesh
    result: Tensor = DTensor.from_local(out.contiguous(), mesh, placements, run_check=False, shape=shape, stride=stride)
    return result


def _rule(dimensions: str, *, by_channels: bool, anywhere: bool) -> Callable[..., list[tuple[list[Any], list[Any]]]]:
    """The operator's acceptable shardings along one dimension of a mesh, as `register_sharding` asks for them: for each
    the placements of outputs and of arguments, None for what is no tensor."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    inputs, outputs = (side.split() for side in dimensions.split(" -> "))

    def rule(*arguments: Any, **others: Any) -> list[tuple[list[Any], list[Any]]]:
        tokens = next(a.ndim - len(t[3:]) for t, a in zip(inputs, arguments) if a is not None and t.startswith("..."))

        def sharding(placed: dict[str, Any], otherwise: Any) -> tuple[list[Any], list[Any]]:
            """Each of `inputs` and `outputs` as placed; else inputs are replicated and outputs are `otherwise`."""
            of_inputs = [None if a is None else placed.get(t, Replicate()) for t, a in zip(inputs, arguments)]
            rest = [None] * (len(arguments) - len(inputs))
            return [placed.get(t, otherwise) for t in outputs], [*of_inputs, *rest]

        terms = {*inputs, *outputs}
        streams = tokens + 2 + arguments[-1] if anywhere else tokens
        shardings = [sharding({}, Replicate())]
        for dim in range(tokens):
            of_states = Shard(dim + (dim >= streams))
            placed = {t: of_states if t == _STATE else Shard(dim) for t in terms if t.startswith("...")}
            shardings.append(sharding(placed, Partial()))
        if by_channels:
            shardings.append(sharding({t: Shard(tokens + t.index("C") - 3) for t in terms if "C" in t}, Partial()))
        return shardings

    return rule
