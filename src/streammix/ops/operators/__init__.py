"""The operators: schema, fake kernel, autograd and vmap, one file a family. Importing this registers them."""

from . import birkhoff, cayley, implicit_sinkhorn, mixed_site, sinkhorn, site, streams, transport

__all__ = ["birkhoff", "cayley", "implicit_sinkhorn", "mixed_site", "sinkhorn", "site", "streams", "transport"]
