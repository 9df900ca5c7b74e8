"""Hyper-connections for PyTorch: parallel residual streams, read, written and mixed by small learned maps."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from . import checkpoints, compat, diagnostics, manifolds, recipes
from .functional import birkhoff, read, sinkhorn, transport, write
from .layers import Collapse, HyperConnection, Stack, anneal_write_multiplier, connect, expand
from .ops import backend, backends

if TYPE_CHECKING:
    from . import distributed, hf

__version__ = version("streammix")

__all__ = [
    "Collapse",
    "HyperConnection",
    "Stack",
    "anneal_write_multiplier",
    "backend",
    "backends",
    "birkhoff",
    "checkpoints",
    "compat",
    "connect",
    "diagnostics",
    "distributed",
    "expand",
    "hf",
    "manifolds",
    "read",
    "recipes",
    "sinkhorn",
    "transport",
    "write",
]

#: Parts that need other packages or the slow ones of torch, loaded when they are first asked for.
_LATE = ("distributed", "hf")


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
