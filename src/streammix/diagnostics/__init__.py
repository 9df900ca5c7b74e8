"""Measures of what hyper-connections do to the residual stream; each docstring has definition and source."""

from .ablation import Ablation
from .contraction import BlockForm, block_form, dobrushin, log_range, relative_range
from .free import Prediction, free_product
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
    column_mae,
    column_sums,
    marginal_error,
    min_entry,
    orthogonality_error,
    row_deviation,
    row_mae,
    row_sums,
)
from .nonfinite import NonFinite, first_non_finite
from .spectra import collapsed_share, effective_rank, jacobian_spectrum, singular_values
from .summary import Summary, summarize
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
from .watching import Use, watch

__all__ = [
    "Ablation",
    "BlockForm",
    "GainsByDepth",
    "NonFinite",
    "Prediction",
    "Site",
    "Summary",
    "Trace",
    "Use",
    "Visit",
    "backward_gain",
    "backward_norm",
    "block_form",
    "collapsed_share",
    "column_deviation",
    "column_mae",
    "column_sums",
    "complement_gain",
    "cross_stream_weight",
    "difference_energy",
    "dobrushin",
    "dominant_share",
    "dominant_signal",
    "effective_rank",
    "effective_streams",
    "entropy_streams",
    "first_non_finite",
    "forward_gain",
    "forward_norm",
    "free_product",
    "gains_by_depth",
    "identity_drift",
    "jacobian_spectrum",
    "log_range",
    "marginal_error",
    "min_entry",
    "orthogonality_error",
    "products",
    "relative_range",
    "row_deviation",
    "row_mae",
    "row_sums",
    "sigma_min",
    "singular_values",
    "stream_cosine",
    "summarize",
    "trace",
    "watch",
]
