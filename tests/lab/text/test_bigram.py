"""The bigram baseline against counting by hand."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import torch

from streammix.lab.text.bigram import bigram_loss


def by_hand(train: bytes, held: bytes) -> float:
    pairs, firsts = Counter(pairwise(train)), Counter(train[:-1])
    losses = [-math.log((pairs[a, b] + 1) / (firsts[a] + 256)) for a, b in pairwise(held)]
    return sum(losses) / len(losses)


def test_equals_counting_by_hand() -> None:
    train, held = b"the theme of the thesis", b"these themes"
    tokens = torch.tensor(list(held))[None]
    loss = bigram_loss(np.frombuffer(train, np.uint8), [(tokens[:, :-1], tokens[:, 1:])])
    assert math.isclose(loss, by_hand(train, held), rel_tol=1e-12)


def test_long_texts_are_counted_in_blocks() -> None:
    """Past the block of 2^22 pairs, the pair across the border included."""
    train = np.zeros((1 << 22) + 2, np.uint8)
    train[1 << 22 :] = (1, 2)  # pairs (0, 1) and (1, 2) lie on both sides of the border
    pair = torch.tensor([[0, 1]]), torch.tensor([[1, 2]])
    expected = -(math.log(2 / ((1 << 22) + 256)) + math.log(2 / 257)) / 2
    assert math.isclose(bigram_loss(train, [pair]), expected, rel_tol=1e-12)


def test_batches_of_unequal_size_weigh_by_window() -> None:
    train = np.frombuffer(b"abab", np.uint8)
    a, b = ord("a"), ord("b")
    likely, unlikely = (torch.tensor([[a]]), torch.tensor([[b]])), (torch.tensor([[a], [a]]), torch.tensor([[a], [a]]))
    expected = -(math.log(3 / 258) + 2 * math.log(1 / 258)) / 3
    assert math.isclose(bigram_loss(train, [likely, unlikely]), expected, rel_tol=1e-12)
