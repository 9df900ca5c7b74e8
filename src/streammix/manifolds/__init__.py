"""Feasible sets for the mixing matrix H_res, one file a set."""

from collections.abc import Callable
from typing import Any

from .base import Guarantees, Manifold
from .birkhoff import Birkhoff
from .identity import Identity
from .sinkhorn import Sinkhorn
from .unconstrained import Unconstrained

_BY_NAME: dict[str, Callable[..., Manifold]] = {
    "birkhoff": Birkhoff,
    "sinkhorn": Sinkhorn,
    "identity": Identity,
    "unconstrained": Unconstrained,
}


def names() -> tuple[str, ...]:
    """The names `get` knows."""
    return tuple(_BY_NAME)


def get(name: str, streams: int, **options: Any) -> Manifold:
    """The manifold of this name for so many streams; options go to its constructor.

    Raises:
        ValueError: no manifold has this name, or its constructor refuses the arguments.
    """
    if name not in _BY_NAME:
        raise ValueError(f"manifold: none is called {name!r}; accepted: {', '.join(_BY_NAME)}")
    return _BY_NAME[name](streams, **options)


__all__ = ["Birkhoff", "Guarantees", "Identity", "Manifold", "Sinkhorn", "Unconstrained", "get", "names"]
