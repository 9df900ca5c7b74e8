"""Hyper-connections for PyTorch: parallel residual streams, read, written and mixed by small learned maps."""

from importlib.metadata import version

from . import checkpoints, compat, diagnostics, manifolds, recipes
from .functional import birkhoff, read, sinkhorn, transport, write
from .layers import Collapse, HyperConnection, Stack, connect, expand
from .ops import backend, backends

__version__ = version("streammix")

__all__ = [
    "Collapse",
    "HyperConnection",
    "Stack",
    "backend",
    "backends",
    "birkhoff",
    "checkpoints",
    "compat",
    "connect",
    "diagnostics",
    "expand",
    "manifolds",
    "read",
    "recipes",
    "sinkhorn",
    "transport",
    "write",
]
