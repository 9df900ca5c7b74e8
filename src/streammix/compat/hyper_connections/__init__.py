"""The public names of the PyPI package hyper-connections (0.4.11) on streammix's operators.

    from streammix.compat.hyper_connections import get_init_and_expand_reduce_stream_functions

Names, signatures, parameters and layouts are the package's, so its state dicts load; the modules have its names too.
docs/from-hyper-connections.md lists what is computed otherwise, and why.
"""

from .ends import AttentionPoolReduceStream, StreamEmbed
from .hyper_connections import (
    HyperConnections,
    get_expand_reduce_stream_functions,
    get_init_and_expand_reduce_stream_functions,
)
from .manifold_constrained_hyper_connections import (
    ManifoldConstrainedHyperConnections,
)
from .manifold_constrained_hyper_connections import (
    get_expand_reduce_stream_functions as mc_get_expand_reduce_stream_functions,
)
from .manifold_constrained_hyper_connections import (
    get_init_and_expand_reduce_stream_functions as mc_get_init_and_expand_reduce_stream_functions,
)
from .plain import Residual

mHC = ManifoldConstrainedHyperConnections

__all__ = [
    "AttentionPoolReduceStream",
    "HyperConnections",
    "ManifoldConstrainedHyperConnections",
    "Residual",
    "StreamEmbed",
    "get_expand_reduce_stream_functions",
    "get_init_and_expand_reduce_stream_functions",
    "mHC",
    "mc_get_expand_reduce_stream_functions",
    "mc_get_init_and_expand_reduce_stream_functions",
]
