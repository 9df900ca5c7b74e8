"""The layers: whole stacks and single sites, the generators of their logits, and where streams begin and end."""

from .frac import FracConnection
from .generalised import GeneralisedConnection
from .hyper_connection import HyperConnection
from .single_pass import SinglePassConnection
from .sparse import SparseConnection
from .stack import Stack
from .streams import Collapse, expand

__all__ = [
    "Collapse",
    "FracConnection",
    "GeneralisedConnection",
    "HyperConnection",
    "SinglePassConnection",
    "SparseConnection",
    "Stack",
    "expand",
]
