"""Which keyword arguments a branch takes."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn


def accepted(branch: Callable[..., Any] | None) -> frozenset[str] | None:
    """The names of the keyword arguments that a branch takes; None if it takes any, or cannot say."""
    function = branch.forward if isinstance(branch, nn.Module) else branch
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # written in C, say
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def divided(given: Mapping[str, Any], takes: Sequence[frozenset[str] | None]) -> list[Mapping[str, Any]]:
    """For each branch the arguments that it takes.

    Raises:
        TypeError: no branch takes one of them.
    """
    if not given:
        return [given] * len(takes)
    for name in given:
        if not any(names is None or name in names for names in takes):
            raise TypeError(f"{name}: no branch of this Stack takes a keyword argument of this name")
    return [
        given if names is None else {name: value for name, value in given.items() if name in names} for names in takes
    ]
