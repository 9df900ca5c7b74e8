"""Where a connection starts: biases that make a new model equal the plain residual network, yet never symmetric."""

import math

import torch
from torch import Tensor

from ..manifolds.base import near_identity_square
from ..recipes import Activation, AuthorsStart, Recipe
from .generators import Start

SATURATION = 8.0  # |logit| beyond which a sigmoid is not driven: its gradient there is 3e-4
SOFT_LOGIT = 1.0  # "soft" rotation: site k reads sigmoid(1) = 0.73 of stream k mod n


def start(recipe: Recipe, streams: int, site: int, identity_logits: Tensor, width: int) -> Start:
    """The start of a hyper-connection's generator, whose projection takes `width` = n C numbers."""
    return Start.at(biases(recipe, streams, site, identity_logits), weight_std(recipe, width), recipe.gate)


def biases(recipe: Recipe, streams: int, site: int, identity_logits: Tensor) -> Tensor:
    """(2n + num_logits) biases: read, write, mix."""
    if recipe.start == "zero":
        return torch.zeros(2 * streams + len(identity_logits))
    if recipe.start == "authors" and recipe.authors:
        return authors_biases(recipe.authors, streams, site, identity_logits)
    read = read_logits(recipe, read_weights(recipe, streams, site))
    write = write_logits(recipe, torch.ones(streams))
    return torch.cat([read, write, mix_logits(recipe, identity_logits)])


def mix_logits(recipe: Recipe, identity_logits: Tensor) -> Tensor:
    """The logits of H_res with start "identity"."""
    if isinstance(recipe.mix_start, str):
        return identity_logits if recipe.mix_start == "identity" else torch.zeros_like(identity_logits)
    made = near_identity_square(math.isqrt(len(identity_logits)), float(recipe.mix_start))
    if len(made) != len(identity_logits):
        raise ValueError(
            f"mix_start: got {recipe.mix_start!r} with a manifold of {len(identity_logits)} logits; accepted: numbers"
            " with manifolds of n x n logits"
        )
    return made


def authors_biases(start: AuthorsStart, streams: int, site: int, identity_logits: Tensor) -> Tensor:
    """(2n + num_logits) biases as `start` says."""
    rotating = torch.full((streams,), -1.0)
    rotating[site % streams] = 1.0
    read = rotating if start.read == "rotating" else inverse("sigmoid", torch.full((streams,), 1 / streams))
    write = rotating if start.write == "rotating" else torch.zeros(streams)
    mix = identity_logits if start.mix == "identity" else torch.zeros_like(identity_logits)
    return torch.cat([read, write, mix])


def weight_std(recipe: Recipe, width: int) -> float:
    """Standard deviation of the projection's initial weights, `width` = n C."""
    if recipe.start == "authors" and recipe.authors and recipe.authors.weights is not None:
        return recipe.authors.weights / width**0.5
    return recipe.weight_std


def read_weights(recipe: Recipe, streams: int, site: int) -> Tensor:
    """n weights that sum to one, the largest at stream site mod n: identical streams are read as one of them."""
    largest = 1.0 if recipe.rotate == "one-hot" or streams == 1 else float(torch.tensor(SOFT_LOGIT).sigmoid())
    weights = torch.full((streams,), (1 - largest) / max(streams - 1, 1))
    weights[site % streams] = largest
    return weights


def read_logits(recipe: Recipe, weights: Tensor) -> Tensor:
    """The logits of these read weights, as near as the activation comes to them."""
    return inverse(recipe.read, weights - recipe.read_eps)


def write_logits(recipe: Recipe, weights: Tensor) -> Tensor:
    """The logits of these write weights, as near as the activation comes to them."""
    return inverse(recipe.write, (weights - recipe.write_eps) / recipe.write_multiplier)


def inverse(activation: Activation, weights: Tensor) -> Tensor:
    """The logits of these weights, those of a sigmoid within +-SATURATION."""
    match activation:
        case "linear":
            return weights
        case "sigmoid":
            return weights.double().clamp(0, 1).logit().clamp(-SATURATION, SATURATION).float()
        case "twice-sigmoid":
            return inverse("sigmoid", weights / 2)
