"""The baseline every model must beat: each byte predicted from the one before it, by counting."""

from collections.abc import Iterable

import numpy as np

from streammix.lab.text import VOCABULARY, Windows


def bigram_loss(train: np.ndarray, batches: Iterable[Windows]) -> float:
    """Cross-entropy, in nats a byte, of p(b | a) = (count(ab) + 1) / (count(a) + 256) on the given windows.

    Args:
        train: uint8 tokens to count in.
        batches: inputs and targets, the same windows as the models' validation loss uses.
    """
    counts = np.ones((VOCABULARY, VOCABULARY))  # add-one smoothing
    block = 1 << 22  # pairs counted at once: bounds the memory for long texts
    for first in range(0, len(train) - 1, block):
        tokens = train[first : first + block + 1].astype(np.int64)
        pairs = tokens[:-1] * VOCABULARY + tokens[1:]
        counts += np.bincount(pairs, minlength=VOCABULARY**2).reshape(counts.shape)
    surprise = -np.log(counts / counts.sum(axis=1, keepdims=True))

    losses = [surprise[inputs.numpy(), targets.numpy()].ravel() for inputs, targets in batches]
    return float(np.concatenate(losses).mean())
