"""Whether the keys of a state dict are those that a source has for a target, and every key that is not."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .._checks import FLOATING
from ..layers import HyperConnection, Stack
from .places import Place, of_other_sites
from .source import Keys, Source


def keys_of(source: Source, place: Place) -> Keys:
    """The keys of a site or of the end."""
    module = place.module
    return source.keys(module) if isinstance(module, HyperConnection) else source.head_keys(module)


def fitting(
    state: Mapping[str, Any], source: Source, found: Sequence[Place], target: Any, prefix: str | Sequence[str]
) -> list[dict[str, Tensor]]:
    """For each place its part of the state, without the prefix.

    Raises:
        ValueError: keys are missing, of another shape or kind, or unknown; it lists all of them.
    """
    parts: list[dict[str, Tensor]] = []
    missing, unknown, wrong = [], [], []
    for place in found:
        keys, part = keys_of(source, place), {}
        accepted = {**keys.required, **keys.optional}
        for name, shape in accepted.items():
            key = f"{place.prefix}{name}"
            if key not in state:
                missing += [key] * (name in keys.required)
            elif complaint := misfit(state[key], shape):
                wrong.append(f"{key} {complaint}")
            else:
                part[name] = state[key].detach()
        for key in state:
            name = key.removeprefix(place.prefix)
            if key.startswith(place.prefix) and name not in accepted and not name.startswith(keys.others):
                unknown.append(key)
        parts.append(part)
    if isinstance(target, Stack):
        unknown += left_over(state, source, found, prefix)
    if missing or unknown or wrong:
        lists = (("missing", missing), ("of another shape or kind", wrong), ("unknown", sorted(set(unknown))))
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in lists if names)
        raise ValueError(f"state_dict: does not fit source {source.name!r}; {said}")
    return parts


def misfit(value: Any, shape: tuple[int, ...]) -> str:
    """What is wrong with a value, or ""."""
    if not isinstance(value, Tensor):
        return f"(a {type(value).__name__}; accepted: a tensor)"
    if value.dtype not in FLOATING:
        return f"({value.dtype}; accepted: float16, bfloat16, float32, float64)"
    if tuple(value.shape) != shape:
        return f"{tuple(value.shape)} (accepted: {shape})"
    return ""


def left_over(
    state: Mapping[str, Any], source: Source, found: Sequence[Place], prefix: str | Sequence[str]
) -> list[str]:
    """Keys of sites that the target does not have."""
    keys = keys_of(source, found[0])
    pattern = of_other_sites(source, prefix, [*keys.required, *keys.optional])
    if pattern is None:
        return []
    known = tuple(place.prefix for place in found)
    return [key for key in state if pattern.fullmatch(key) and not key.startswith(known)]
