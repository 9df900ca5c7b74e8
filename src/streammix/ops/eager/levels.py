"""The levels of the homotopy: T of logits R / 2^k, and the potentials that lead from one level to the next.

At each level T is formed afresh from the logits, so an entry is as accurate as the logits it depends on; -inf is a
mask, whose entry is zero at every level.
"""

import torch
from torch import Tensor

from .matching import connected

UNIT = 256.0  # potentials enter sums in these units, so that none overflows
MANY = 2.0**16  # potentials above it, in units, are brought to few digits

#: x[0] + x[1] + x[2], each the rest rounded: three times the digits. Logits of 1e9 or 1e30 may tie, and what then
#: decides are potentials of order one beside sums of such logits.
Threefold = tuple[Tensor, Tensor, Tensor]


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b, rounded, and the error (Knuth, TAOCP 2, 4.2.2)."""
    s = a + b
    back = s - a
    return s, (a - (s - back)) + (b - back)


def add(a: Threefold, b: Tensor) -> Threefold:
    s0, e0 = two_sum(a[0], b)
    s1, e1 = two_sum(a[1], e0)
    s1, e2 = two_sum(s1, a[2] + e1)
    s0, s1 = two_sum(s0, s1)
    s1, e2 = two_sum(s1, e2)
    return s0, s1, e2


def zero(b: Tensor) -> Threefold:
    return torch.zeros_like(b), torch.zeros_like(b), torch.zeros_like(b)


def matrix(R: Tensor, k: Tensor, b: Threefold) -> Tensor:
    """row-softmax(R / 2^k + UNIT b). R (B, n, n), k (B,), b of (B, n). Only differences are rounded."""
    masked = R.isneginf()
    scaled = torch.ldexp(torch.where(masked, 0, R) / UNIT, -k[:, None, None])
    x = add((b[0].unsqueeze(1), b[1].unsqueeze(1), b[2].unsqueeze(1)), scaled)
    least = torch.finfo(R.dtype).min
    high = torch.where(masked, least, x[0])
    # the greatest by the first part, of those equal in it by the second, and so on
    top = high.amax(-1, keepdim=True)
    second = torch.where(high < top, least, x[1]).amax(-1, keepdim=True)
    third = torch.where((high < top) | (x[1] < second), least, x[2]).amax(-1, keepdim=True)
    difference = add(add(add((high, x[1], x[2]), -top), -second), -third)
    below, error = two_sum(difference[0], difference[1])
    T = torch.where(masked, 0, (UNIT * below).exp() * (1 + UNIT * error))
    return T / T.sum(-1, keepdim=True)


def double(b: Threefold, coupled: Tensor) -> Threefold:
    """The potentials for the level below.

    coupled (B, n, n) bool: columns that T couples. Groups that are no longer coupled keep their distance, and what it
    is does not matter to the digit: so each is shifted to where its first column has a potential of one number. Else
    the digits of that distance, which doubles from level to level, would take the place of those that decide within.
    """
    first = connected(coupled).int().argmax(-1)  # each column's, the first it is connected to
    large = b[0].gather(1, first).abs() > MANY
    for part in (b[1], b[2]):
        b = add(b, -torch.where(large, part.gather(1, first), 0))
    return 2 * b[0], 2 * b[1], 2 * b[2]
