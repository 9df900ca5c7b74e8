"""The ways of spreading a model over processes, one file each."""

from .base import Layout
from .replicas import Replicas
from .shards import Shards
from .stages import Stages
from .tokens import Tokens

#: By the names of `--parallel`.
LAYOUTS: dict[str, type[Layout]] = {"ddp": Replicas, "fsdp": Shards, "tp": Tokens, "pp": Stages}

__all__ = ["LAYOUTS", "Layout"]
