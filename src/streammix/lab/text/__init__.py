"""Text as bytes: found, split, cached as two memory-mapped files, and cut into windows."""

from .cache import Corpus
from .corpus import load, require_length
from .windows import Windows, train_batch, val_batches, windows

VOCABULARY = 256  # bytes

__all__ = ["VOCABULARY", "Corpus", "Windows", "load", "require_length", "train_batch", "val_batches", "windows"]
