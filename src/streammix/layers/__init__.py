"""The layers: whole stacks and single sites, the generators of their logits, and where streams begin and end."""

from .borrowed import connect
from .connections import (
    Connection,
    DecoupledConnection,
    DenseConnection,
    DepthConnection,
    FracConnection,
    GatedConnection,
    GeneralisedConnection,
    HyperConnection,
    MultiGateConnection,
    SinglePassConnection,
    SparseConnection,
)
from .connections.temporal import decoding
from .stack import Stack
from .streams import Collapse, expand

__all__ = [
    "Collapse",
    "Connection",
    "DecoupledConnection",
    "DenseConnection",
    "DepthConnection",
    "FracConnection",
    "GatedConnection",
    "GeneralisedConnection",
    "HyperConnection",
    "MultiGateConnection",
    "SinglePassConnection",
    "SparseConnection",
    "Stack",
    "connect",
    "decoding",
    "expand",
]
