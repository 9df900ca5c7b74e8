"""torch.library operators: schema, fake kernel, autograd and vmap here; one folder a backend below."""

from . import birkhoff, sinkhorn, streams  # registers the operators
from .backend import Backend, backend, backends, current

__all__ = ["Backend", "backend", "backends", "birkhoff", "current", "sinkhorn", "streams"]
