"""Islands: the modules whose parameters stay in float32 when the model around them trains in bfloat16."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from .._parameters import AtLeastFloat32
from ..layers import Connection, Stack
from .pipeline import StackStage

#: What is an island wherever it is found, unless it is inside of one.
ISLANDS = (Stack, StackStage, Connection, AtLeastFloat32)
Kind = Literal["island", "branch", "unit"]
#: Classes of modules, or the names of some in the model.
Chosen = Collection[type[nn.Module] | str]


@dataclass(frozen=True)
class Part:
    """A module that is sharded by itself: a branch and a unit as the model is, an island in float32."""

    name: str
    module: nn.Module
    kind: Kind


def parts(model: nn.Module, units: Chosen = (), float32: Chosen = ()) -> list[Part]:
    """The parts of a model in the order in which they are to be sharded: what is inside comes first.

    A Stack is one island with all of its sites and its end, because a site that is sharded by itself could not be
    fused with its neighbour; a connection outside of stacks is one, and so is any other module whose parameters are
    float32 at least. Branches are no part of an island. Parts without parameters are left out.
    """
    kept = kept_by_transformers(model)
    found: list[Part] = []
    seen: set[nn.Module] = set()

    def visit(module: nn.Module, name: str, inside: bool, branch: bool) -> None:
        if module in seen:
            return
        seen.add(module)
        begins = not inside and (isinstance(module, ISLANDS) or module in kept or chosen(module, name, float32))
        own_branch = getattr(module, "branch", None)
        for child_name, child in module.named_children():
            is_branch = child is own_branch and (begins or isinstance(module, Connection))
            path = f"{name}.{child_name}" if name else child_name
            visit(child, path, (inside or begins) and not is_branch, is_branch)
        if next(module.parameters(), None) is not None:
            if begins:
                found.append(Part(name, module, "island"))
            elif branch:
                found.append(Part(name, module, "branch"))
            elif chosen(module, name, units):
                found.append(Part(name, module, "unit"))

    visit(model, "", False, False)
    return found


def chosen(module: nn.Module, name: str, choice: Chosen) -> bool:
    """Whether the module is of one of these classes, or is called or ends in one of these names."""
    return any(
        name == one or name.endswith(f".{one}") if isinstance(one, str) else isinstance(module, one) for one in choice
    )


def kept_by_transformers(model: nn.Module) -> set[nn.Module]:
    """The modules all of whose parameters a model of Hugging Face's transformers keeps in float32: those in whose names
    a part, or several in a row, is among `_keep_in_fp32_modules_strict`."""
    found: set[nn.Module] = set()
    for root in model.modules():
        parts = getattr(root, "_keep_in_fp32_modules_strict", None)
        if parts:
            for path, module in root.named_modules():
                names = [f".{path}.{name}." if path else f".{name}." for name, _ in module.named_parameters()]
                if names and all(any(f".{part}." in name for part in parts) for name in names):
                    found.add(module)
    return found


def own_parameters(part: Part, all_parts: Collection[Part]) -> dict[str, nn.Parameter]:
    """The parameters of an island, without those of the parts inside it."""
    inner = {
        id(parameter)
        for other in all_parts
        if other.name != part.name and other.name.startswith(f"{part.name}." if part.name else "")
        for parameter in other.module.parameters()
    }
    return {name: p for name, p in part.module.named_parameters(part.name) if id(p) not in inner}


def require_float32(all_parts: Collection[Part]) -> None:
    """Raise ValueError where a parameter of an island is narrower than float32 already."""
    for part in all_parts:
        if part.kind == "island":
            for name, parameter in own_parameters(part, all_parts).items():
                if parameter.is_floating_point() and parameter.dtype.itemsize < torch.float32.itemsize:
                    raise ValueError(
                        f"model: {name} is {parameter.dtype}; accepted: float32 or float64 parameters of connections"
                        " (load weights into the module instead of assigning them, or call .float() on it)"
                    )


def require_found(name: str, choice: Chosen, model: nn.Module) -> None:
    """Raise ValueError where a choice names no module of the model, TypeError where it is none."""
    if isinstance(choice, str) or not isinstance(choice, Collection):
        raise TypeError(f"{name}: got {choice!r}; accepted: a collection of module classes and names")
    modules: list[tuple[str, Any]] = list(model.named_modules())
    for one in choice:
        if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            raise TypeError(f"{name}: got {one!r}; accepted: classes of modules, and names of modules")
        if not any(chosen(module, path, [one]) for path, module in modules):
            said = one if isinstance(one, str) else one.__name__
            raise ValueError(f"{name}: got {said!r}, which is no module of this {type(model).__name__}")
