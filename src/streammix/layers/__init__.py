"""The layers: whole stacks and single sites, the generators of their logits, and where streams begin and end."""

from .annealing import anneal_write_multiplier
from .borrowed import connect
from .connections import (
    Connection,
    DecoupledConnection,
    DenseConnection,
    DepthConnection,
    EquilibriumConnection,
    FracConnection,
    GatedConnection,
    GeneralisedConnection,
    GroupedConnection,
    HyperConnection,
    MultiGateConnection,
    MultiHeadConnection,
    SinglePassConnection,
    SparseConnection,
    UncoupledConnection,
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
    "EquilibriumConnection",
    "FracConnection",
    "GatedConnection",
    "GeneralisedConnection",
    "GroupedConnection",
    "HyperConnection",
    "MultiGateConnection",
    "MultiHeadConnection",
    "SinglePassConnection",
    "SparseConnection",
    "Stack",
    "UncoupledConnection",
    "anneal_write_multiplier",
    "connect",
    "decoding",
    "expand",
]
