"""The operators: schema, fake kernel, autograd and vmap, one file a family. Importing this registers them."""

from . import (
    birkhoff,
    cayley,
    chart,
    implicit_sinkhorn,
    mixed_site,
    rows,
    sinkhorn,
    site,
    sparse,
    streams,
    temporal,
    transport,
)

__all__ = [
    "birkhoff",
    "cayley",
    "chart",
    "implicit_sinkhorn",
    "mixed_site",
    "rows",
    "sinkhorn",
    "site",
    "sparse",
    "streams",
    "temporal",
    "transport",
]
