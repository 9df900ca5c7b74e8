"""How much the mixing matrices of a whole stack can amplify or lose, by depth.

The streams pass site l as x -> H_l x (+ what the branch writes), so a stack of L sites multiplies them by

    P_{a:b} = H_b ··· H_a        (later sites on the left),      one product a token.

The mean of the streams sees P's row sums on the way forward, gradients see its column sums on the way back.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .._checks import widened_square
from .spectra import singular_values

Mixes = Sequence[Float[Tensor, "*tokens n n"]]


def forward_gain(product: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Amax gain magnitude, forward: max_i |Σ_j P[i, j]| (arXiv 2512.24880, section 5).

    One for every matrix whose rows sum to one, of whatever sign; for signed matrices see `forward_norm`.
    """
    return widened_square("product", product).sum(-1).abs().amax(-1)


def backward_gain(product: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """Amax gain magnitude, backward: max_j |Σ_i P[i, j]| (arXiv 2512.24880, section 5)."""
    return widened_square("product", product).sum(-2).abs().amax(-1)


def forward_norm(product: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """‖P‖_∞ = max_i Σ_j |P[i, j]|, the largest growth of any state; equals `forward_gain` where P >= 0."""
    return widened_square("product", product).abs().sum(-1).amax(-1)


def backward_norm(product: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """‖P‖₁ = max_j Σ_i |P[i, j]|, the largest growth of any gradient; equals `backward_gain` where P >= 0."""
    return widened_square("product", product).abs().sum(-2).amax(-1)


def complement_gain(product: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """‖P - J‖₂ with J = 11ᵀ/n: for doubly stochastic P, how much of the streams' differences can survive.

    Zero: the streams have been averaged into one. One: some difference passes unharmed. A single stream has
    no differences, its gain is |P - 1|.
    """
    product = widened_square("product", product)
    return singular_values(product - 1 / product.shape[-1])[..., 0]


def sigma_min(product: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch"]:
    """The least singular value: how much is left of the state that the product shrinks most."""
    return singular_values(product)[..., -1]


def products(mixes: Mixes, *, backward: bool = False) -> Iterator[Float[Tensor, "*tokens n n"]]:
    """Composite mappings by depth: P_{1:l} for l = 1 ... L; with `backward`, P_{l:L} for l = L ... 1.

    Args:
        mixes: H_1 ... H_L in the order of the forward pass, one matrix a token.

    Raises:
        ValueError: no sites, or shapes that differ from site to site.
        TypeError: a site's matrices are not floating.
    """
    checked = checked_mixes(mixes)
    product = None
    for mix in reversed(checked) if backward else checked:
        if product is None:
            product = mix
        else:
            product = product @ mix if backward else mix @ product
        yield product


class GainsByDepth(NamedTuple):
    """Means over tokens, indexed by site l = 1 ... L; every field has shape (L,) and float64."""

    forward: Float[Tensor, " sites"]
    """forward_gain of P_{1:l}: the sites up to l."""
    backward: Float[Tensor, " sites"]
    """backward_gain of P_{l:L}: the sites from l on."""
    forward_norm: Float[Tensor, " sites"]
    backward_norm: Float[Tensor, " sites"]
    complement: Float[Tensor, " sites"]
    """complement_gain of P_{1:l}."""
    sigma_min: Float[Tensor, " sites"]
    """Of P_{1:l}."""
    single_forward: Float[Tensor, " sites"]
    """forward_gain of H_l alone."""
    single_backward: Float[Tensor, " sites"]
    """backward_gain of H_l alone."""


def gains_by_depth(mixes: Mixes) -> GainsByDepth:
    """Every gain of a stack by depth: per token, then averaged over tokens (arXiv 2512.24880, section 5).

    Args:
        mixes: H_1 ... H_L in the order of the forward pass, each (*tokens, n, n), such as a trace's `res`.

    Raises:
        ValueError: no sites, no tokens, or shapes that differ from site to site.
        TypeError: a site's matrices are not floating.
    """
    checked = checked_mixes(mixes)
    if checked[0].numel() == 0:
        raise ValueError(f"mixes: got shape {tuple(checked[0].shape)}; accepted: at least one token to average over")

    def means(*measures: Tensor) -> list[Tensor]:
        return [measure.double().mean() for measure in measures]

    ahead = [means(forward_gain(p), forward_norm(p), complement_gain(p), sigma_min(p)) for p in products(checked)]
    behind = [means(backward_gain(p), backward_norm(p)) for p in products(checked, backward=True)][::-1]
    alone = [means(forward_gain(mix), backward_gain(mix)) for mix in checked]

    forward, forward_norms, complement, least = map(torch.stack, zip(*ahead))
    backward, backward_norms = map(torch.stack, zip(*behind))
    single_forward, single_backward = map(torch.stack, zip(*alone))
    return GainsByDepth(
        forward, backward, forward_norms, backward_norms, complement, least, single_forward, single_backward
    )


def checked_mixes(mixes: Mixes) -> list[Float[Tensor, "*tokens n n"]]:
    checked = [widened_square(f"mixes[{site}]", mix) for site, mix in enumerate(mixes)]
    if not checked:
        raise ValueError("mixes: got no sites; accepted: one (*tokens, n, n) tensor a site")
    for site, mix in enumerate(checked):
        if mix.shape != checked[0].shape:
            raise ValueError(
                f"mixes[{site}]: got {tuple(mix.shape)}; accepted: mixes[0]'s shape {tuple(checked[0].shape)}"
            )
    return checked
