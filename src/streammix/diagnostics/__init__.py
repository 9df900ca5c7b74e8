"""Measures of what hyper-connections do to the residual stream; each docstring has definition and source."""

from .gains import (
    GainsByDepth,
    backward_gain,
    backward_norm,
    complement_gain,
    forward_gain,
    forward_norm,
    gains_by_depth,
    products,
    sigma_min,
)
from .marginals import (
    column_deviation,
    marginal_error,
    min_entry,
    orthogonality_error,
    row_deviation,
)
from .tracing import Site, Trace, Visit, trace
from .usage import (
    cross_stream_weight,
    difference_energy,
    dominant_share,
    dominant_signal,
    effective_streams,
    entropy_streams,
    identity_drift,
    stream_cosine,
)

__all__ = [
    "GainsByDepth",
    "Site",
    "Trace",
    "Visit",
    "backward_gain",
    "backward_norm",
    "column_deviation",
    "complement_gain",
    "cross_stream_weight",
    "difference_energy",
    "dominant_share",
    "dominant_signal",
    "effective_streams",
    "entropy_streams",
    "forward_gain",
    "forward_norm",
    "gains_by_depth",
    "identity_drift",
    "marginal_error",
    "min_entry",
    "orthogonality_error",
    "products",
    "row_deviation",
    "sigma_min",
    "stream_cosine",
    "trace",
]
