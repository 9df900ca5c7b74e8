"""A site's numbers as all sources with a flattened norm have them, between their layouts and ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..layers import EquilibriumConnection, HyperConnection
from ..layers.generators import Flattened
from ..manifolds import Birkhoff, ImplicitSinkhorn, Manifold, Sinkhorn
from .source import Source


@dataclass(frozen=True)
class Maps:
    """weight (rows, n C), its columns stream by stream, and bias (rows): n reads, n writes, then the mixing logits;
    gate (3) likewise. further: parameters of the manifold."""

    weight: Tensor
    bias: Tensor
    gate: Tensor
    further: Mapping[str, Tensor] = field(default_factory=dict)


class FlattenedSource(Source):
    """Weights that make all logits from the whole normalised state: one projection, biases and a gate for each group.

    Subclasses give `keys`, `maps` (from keys to ours) and `given` (back), and `order` where their manifold is another.

    transposed: whether the source applies the transpose of its matrix to the streams.
    """

    transposed: bool = True

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        """The numbers in our layout, the mixing logits still in the source's order."""
        raise NotImplementedError

    def given(self, n: int, dim: int, maps: Maps) -> dict[str, Tensor]:
        """The inverse of `maps`."""
        raise NotImplementedError

    def mixing_logits(self, n: int) -> int:
        """How many mixing logits there are."""
        return n * n

    def accepts(self, manifold: Manifold) -> bool:
        """Whether the mixing logits have a meaning in this manifold."""
        return isinstance(manifold, (Sinkhorn, Birkhoff, ImplicitSinkhorn))

    def order(self, manifold: Manifold) -> Tensor:
        """Which of the source's mixing logits each of ours is."""
        n = manifold.streams
        same = self.transposed == bool(getattr(manifold, "transposed", False))
        square = torch.arange(n * n).view(n, n)
        return (square if same else square.mT).flatten()

    def check(self, site: HyperConnection) -> None:
        logits = site.logits
        if not isinstance(logits, Flattened):
            self.refuse(site, f"which makes its logits by {type(logits).__name__}")
        elif not self.accepts(site.manifold) or site.manifold.num_logits != self.mixing_logits(site.streams):
            self.refuse(site, f"whose mixing is {site.manifold}")
        elif site.recipe.read != "sigmoid" or site.recipe.write not in ("sigmoid", "twice-sigmoid"):
            self.refuse(site, "whose reads and writes are no sigmoids")
        elif isinstance(site, EquilibriumConnection):
            self.refuse(site, "whose write logits are not one for each stream")
        elif logits.frozen_gate is not None:
            self.refuse(site, "whose gate on the mixing is frozen")

    def read(self, site: HyperConnection, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        n = site.streams
        maps = self.maps(n, site.dim, given)
        order = self.order(site.manifold).to(maps.weight.device)
        rows = torch.cat([torch.arange(2 * n, device=order.device), 2 * n + order])
        own = {"logits.weight": maps.weight[rows], "logits.bias": maps.bias[rows.to(maps.bias.device)]}
        further = {f"manifold.{name}": value for name, value in maps.further.items()}
        return {**own, "logits.gate": maps.gate, **further}

    def write(self, site: HyperConnection) -> dict[str, Tensor]:
        n, logits = site.streams, site.logits
        assert isinstance(logits, Flattened)
        weight, bias, gate = (whole(getattr(logits, name)) for name in ("weight", "bias", "gate"))
        rows = torch.cat([torch.arange(2 * n), 2 * n + self.order(site.manifold).argsort()]).to(weight.device)
        further = {name: whole(value) for name, value in site.manifold.named_parameters()}
        return self.given(n, site.dim, Maps(weight[rows], bias[rows], gate, further))


def whole(parameter: Tensor) -> Tensor:
    """A copy of a parameter's numbers; of all of them where they are distributed."""
    value = parameter.detach()
    value = value.full_tensor() if hasattr(value, "full_tensor") else value
    return value.clone()


def scalar(value: Tensor) -> Tensor:
    """A scalar that may be stored as a vector of one, as a vector of one."""
    return value.reshape(1)


def absorbed(weight: Tensor, gain: Tensor | None) -> Tensor:
    """A projection (rows, n C) that takes over the gain (n C) of the norm before it."""
    return weight if gain is None else weight * gain.reshape(1, -1).to(weight.dtype)
