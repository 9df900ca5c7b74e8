"""torch.library operators: schema, fake kernel, autograd and vmap here; one folder a backend below."""

from . import birkhoff, cayley, implicit_sinkhorn, inference, sinkhorn, site, streams  # registers the operators
from .backend import Backend, backend, backends, current, current_for

__all__ = [
    "Backend",
    "backend",
    "backends",
    "birkhoff",
    "cayley",
    "current",
    "current_for",
    "implicit_sinkhorn",
    "inference",
    "sinkhorn",
    "site",
    "streams",
]
