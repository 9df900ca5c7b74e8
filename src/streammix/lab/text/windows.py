"""Windows of a text: inputs and targets, for training and for measuring."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from streammix.lab.config import Config
from streammix.lab.text.cache import Corpus
from streammix.lab.text.tokens import Tokens

Windows = tuple[Int64[Tensor, "batch context"], Int64[Tensor, "batch context"]]


def windows(tokens: Tokens | np.ndarray, starts: np.ndarray, context: int) -> Windows:
    """Inputs and targets (the same, one token later) of the windows that begin at `starts`."""
    cut = torch.from_numpy(np.stack([tokens[start : start + context + 1] for start in starts]).astype(np.int64))
    return cut[:, :-1], cut[:, 1:]


def train_batch(corpus: Corpus, config: Config, step: int) -> Windows:
    """The batch of a step: a function of (seed, step) alone, so that resuming needs no sampler state."""
    generator = np.random.default_rng([config.seed & (2**64 - 1), step])
    starts = generator.integers(len(corpus.train) - config.context, size=config.batch)
    return windows(corpus.train, starts, config.context)


def val_batches(corpus: Corpus, config: Config) -> Iterator[Windows]:
    """The same held-out windows every time: evenly spread, without overlap, at most eval_batches of them."""
    fitting = (len(corpus.val) - 1) // config.context
    count = min(config.eval_batches * config.batch, fitting)
    starts = np.linspace(0, len(corpus.val) - config.context - 1, count).astype(np.int64)
    for first in range(0, count, config.batch):
        yield windows(corpus.val, starts[first : first + config.batch], config.context)
