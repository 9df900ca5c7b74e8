"""The wirings: how a site is attached to the streams, one file each with its beginning and its ending beside it.

A wiring enters itself by its class; importing its file here is all else it needs.
"""

from .base import CLASSES, Connection, State, make
from .branches import inputs_of
from .decoupled import DecoupledConnection
from .dense import DenseConnection
from .depth import DepthConnection
from .equilibrium import EquilibriumConnection
from .frac import FracConnection
from .gated import GatedConnection
from .generalised import GeneralisedConnection
from .grouped import GroupedConnection
from .hyper import HyperConnection
from .multi_gate import MultiGateConnection
from .multi_head import MultiHeadConnection
from .single_pass import SinglePassConnection
from .sparse import SparseConnection
from .uncoupled import UncoupledConnection

__all__ = [
    "CLASSES",
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
    "State",
    "UncoupledConnection",
    "inputs_of",
    "make",
]
