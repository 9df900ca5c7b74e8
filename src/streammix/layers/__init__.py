"""The layers: a site, the generators of its logits, and where streams begin and end."""

from .hyper_connection import HyperConnection
from .streams import Collapse, expand

__all__ = ["Collapse", "HyperConnection", "expand"]
