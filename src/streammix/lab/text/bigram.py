"""The baseline every model must beat: each token predicted from the one before it, by counting."""

from collections.abc import Iterable, Iterator

import numpy as np

from streammix.lab.text import VOCABULARY, Tokens, Windows

BLOCK = 1 << 22  # pairs counted at once: bounds the memory for long texts
SMALL = 1024  # vocabularies of which all pairs are counted


def bigram_loss(train: Tokens | np.ndarray, batches: Iterable[Windows], vocabulary: int = VOCABULARY) -> float:
    """Cross-entropy, in nats a token, of p(b | a) = (count(ab) + 1) / (count(a) + vocabulary) on the given windows.

    Of a large vocabulary, only pairs that the windows hold are counted, so that any takes little memory.

    Args:
        train: tokens to count in.
        batches: inputs and targets, the same windows as the models' validation loss uses.
    """
    windows = [inputs.numpy() * vocabulary + targets.numpy() for inputs, targets in batches]
    asked, place = np.unique(np.concatenate([pairs.ravel() for pairs in windows]), return_inverse=True)
    counts, firsts = np.ones(len(asked)), np.full(vocabulary, float(vocabulary))  # add-one smoothing
    for first, second in blocks(train):
        firsts += np.bincount(first, minlength=vocabulary)
        pairs = first * vocabulary + second
        if vocabulary <= SMALL:
            counts += np.bincount(pairs, minlength=vocabulary**2)[asked]
        else:
            at = np.searchsorted(asked, pairs).clip(max=len(asked) - 1)
            counts += np.bincount(at[asked[at] == pairs], minlength=len(asked))
    surprise = -np.log(counts / firsts[asked // vocabulary])
    return float(surprise[place].mean())


def blocks(train: Tokens | np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of neighbours, in blocks: the first tokens, and those after them."""
    for first in range(0, len(train) - 1, BLOCK):
        tokens = train[first : first + BLOCK + 1].astype(np.int64)
        yield tokens[:-1], tokens[1:]
