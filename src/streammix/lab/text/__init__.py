"""Text as tokens, bytes mostly: found, split, cached as two files, and cut into windows."""

from .cache import Corpus
from .corpus import load, require_length, with_vocabulary
from .tokens import Tokens
from .windows import Windows, train_batch, val_batches, windows

VOCABULARY = 256  # bytes

__all__ = [
    "VOCABULARY",
    "Corpus",
    "Tokens",
    "Windows",
    "load",
    "require_length",
    "train_batch",
    "val_batches",
    "windows",
    "with_vocabulary",
]
