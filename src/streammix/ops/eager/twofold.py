"""Sums with twice the digits: a number is the unevaluated sum of two, high + low."""

import torch
from torch import Tensor

from .levels import two_sum

Twofold = tuple[Tensor, Tensor]


def add(a: Twofold, b: Twofold) -> Twofold:
    high, error = two_sum(a[0], b[0])
    return two_sum(high, error + (a[1] + b[1]))


def total(x: Twofold, dim: int) -> Twofold:
    """The sum over a dimension (negative), in pairs, pairs of pairs and so on."""
    high, low = x
    while (size := high.shape[dim]) > 1:
        if size % 2:
            pad = (0, 0) * (-dim - 1) + (0, 1)
            high, low = torch.nn.functional.pad(high, pad), torch.nn.functional.pad(low, pad)
        (a, b), (c, d) = high.unflatten(dim, (2, -1)).unbind(dim - 1), low.unflatten(dim, (2, -1)).unbind(dim - 1)
        high, low = add((a, c), (b, d))
    return high.squeeze(dim), low.squeeze(dim)
