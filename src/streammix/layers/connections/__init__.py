"""The wirings: how a site is attached to the streams, one file each with its beginning and its ending beside it.

A wiring enters itself by its class; importing its file here is all else it needs.
"""

from .base import CLASSES, Connection, State, make
from .branches import inputs_of
from .decoupled import DecoupledConnection
from .frac import FracConnection
from .gated import GatedConnection
from .generalised import GeneralisedConnection
from .hyper import HyperConnection
from .single_pass import SinglePassConnection
from .sparse import SparseConnection

__all__ = [
    "CLASSES",
    "Connection",
    "DecoupledConnection",
    "FracConnection",
    "GatedConnection",
    "GeneralisedConnection",
    "HyperConnection",
    "SinglePassConnection",
    "SparseConnection",
    "State",
    "inputs_of",
    "make",
]
