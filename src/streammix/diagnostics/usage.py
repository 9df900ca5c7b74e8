"""How many of the n streams a network really uses, and how different they are: per token, any leading shape.

Weights are a site's read or write weights a (..., n). Their shares are w[s] = |a[s]| / Σ|a|.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import widened, widened_square


def shares(weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """w[s] = |a[s]| / Σ|a|; all zero where every weight is."""
    size = widened("weights", weights, 1, "(..., n)").abs()
    total = size.sum(-1, keepdim=True)
    return size / torch.where(total == 0, 1, total)


def effective_streams(weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Participation ratio (Σ|a|)² / Σa² = 1 / Σw², from 1 (one stream does it all) to n (all alike).

    Zero where every weight is. The question "how many of n" is arXiv 2609.05309's.
    """
    squares = shares(weights).square().sum(-1)
    return torch.where(squares == 0, 0, 1 / squares)


def entropy_streams(weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """exp(-Σ w ln w), from 1 to n: like `effective_streams`, with more regard for the small weights.

    Zero where every weight is.
    """
    w = shares(weights)
    return torch.where(w.sum(-1) == 0, 0, torch.special.entr(w).sum(-1).exp())


def dominant_share(weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """max_s w[s], from 1/n to 1: the share of the stream that is read (or written) most."""
    return shares(weights).amax(-1)


def dominant_signal(x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch"]:
    """max_s ‖x[s]‖² / Σ_s ‖x[s]‖², from 1/n to 1: the share of the state's energy in its largest stream."""
    return shares(states("x", x).square().sum(-1)).amax(-1)


def stream_cosine(x: Float[Tensor, "*batch n C"], *, centred: bool = False) -> Float[Tensor, "*batch"]:
    """Mean of cos(x[i], x[j]) over the n(n-1)/2 pairs of streams (arXiv 2609.02672).

    One when all streams are alike, as they start. The streams' mean dominates it; with `centred` that mean is
    taken off first, and the least possible value -1/(n-1) means differences spread evenly. A zero stream has
    no direction: its pairs count as 0. NaN for a single stream, which has no pairs.
    """
    x = states("x", x)
    if centred:
        x = x - x.mean(-2, keepdim=True)
    length = x.norm(dim=-1, keepdim=True)
    unit = x / torch.where(length == 0, 1, length)
    # Σ_{i≠j} u[i]·u[j] = ‖Σ u‖² - Σ ‖u‖²
    pairs = unit.sum(-2).square().sum(-1) - unit.square().sum((-2, -1))
    n = x.shape[-2]
    return pairs / (n * (n - 1)) if n > 1 else torch.full_like(pairs, torch.nan)


def difference_energy(x: Float[Tensor, "*batch n C"], *, relative: bool = False) -> Float[Tensor, "*batch"]:
    """‖x - 1 m‖_F² with m the mean over streams (arXiv 2609.02672); with `relative`, divided by ‖x‖_F².

    Zero when all streams are alike: then n streams hold no more than one. A zero state has relative energy 0.
    """
    x = states("x", x)
    energy = (x - x.mean(-2, keepdim=True)).square().sum((-2, -1))
    if not relative:
        return energy
    total = x.square().sum((-2, -1))
    return energy / torch.where(total == 0, 1, total)


def identity_drift(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """‖H - I‖_F: how far mixing has moved from leaving every stream alone."""
    res = widened_square("res", res)
    return (res - torch.eye(res.shape[-1], dtype=res.dtype, device=res.device)).square().sum((-2, -1)).sqrt()


def cross_stream_weight(res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """1 - tr(H)/n: for doubly stochastic H, the mean share of a stream that comes from the others."""
    res = widened_square("res", res)
    return 1 - res.diagonal(dim1=-2, dim2=-1).mean(-1)


def states(name: str, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n C"]:
    return widened(name, x, 2, "(..., n, C)")
