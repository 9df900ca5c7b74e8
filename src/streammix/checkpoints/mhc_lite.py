"""mHC-lite and KromHC: static_alpha and dynamic_alpha_fn for reads and mixing together, beta for writes."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .. import recipes
from ..layers import HyperConnection
from ..manifolds import Kronecker, Manifold, Permutations
from ..recipes import Recipe
from .maps import FlattenedSource, Maps, absorbed, scalar
from .source import Keys


class MHCLite(FlattenedSource):
    """static_alpha (n + n!), dynamic_alpha_fn (n C, n + n!), pre_branch_scale (1), residual_scale (1), static_beta
    (n), dynamic_beta_fn (n C, n), h_post_scale (), norm.gamma (n C), one less than the norm's gain. Streams end in
    their sum."""

    name: ClassVar[str] = "mhc-lite"
    about: ClassVar[str] = "FFTYYY/mhc-lite, MHCLite"
    ending: ClassVar[Literal["", "sum", "mean", "head"]] = "sum"

    def recipe(self) -> Recipe:
        return replace(recipes.get(self.name), collapse="sum", start="authors")

    def mixing_logits(self, n: int) -> int:
        return math.factorial(n)

    def accepts(self, manifold: Manifold) -> bool:
        return isinstance(manifold, Permutations) and in_order(manifold)

    def order(self, manifold: Manifold) -> Tensor:
        """The transpose of a permutation matrix is the inverse permutation's."""
        assert isinstance(manifold, Permutations)
        return inverses(manifold)

    def keys(self, site: HyperConnection) -> Keys:
        n, width = site.streams, site.streams * site.dim
        alpha = n + self.mixing_logits(n)
        return Keys(
            {
                "static_alpha": self.static_shape(n),
                "dynamic_alpha_fn": (width, alpha),
                "pre_branch_scale": (1,),
                "residual_scale": (1,),
                "static_beta": (n,),
                "dynamic_beta_fn": (width, n),
                "h_post_scale": (),
                "norm.gamma": (width,),
            },
            others=("branch.", "residual_transform."),
        )

    def static_shape(self, n: int) -> tuple[int, ...]:
        """Of static_alpha."""
        return (n + self.mixing_logits(n),)

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        alpha, static = given["dynamic_alpha_fn"].mT, given["static_alpha"]
        weight = torch.cat([alpha[:n], given["dynamic_beta_fn"].mT, alpha[n:]])
        bias = torch.cat([static[:n], given["static_beta"], static[n:]])
        gate = torch.cat([scalar(given[name]) for name in ("pre_branch_scale", "h_post_scale", "residual_scale")])
        return Maps(absorbed(weight, given["norm.gamma"] + 1), bias, gate)

    def given(self, n: int, dim: int, maps: Maps) -> dict[str, Tensor]:
        read, write, mix = maps.weight.split((n, n, len(maps.weight) - 2 * n))
        read_bias, write_bias, mix_bias = maps.bias.split((n, n, len(mix)))
        pre, post, res = maps.gate.clone()
        return {
            "static_alpha": torch.cat([read_bias, mix_bias]),
            "dynamic_alpha_fn": torch.cat([read, mix]).mT.contiguous(),
            "pre_branch_scale": pre.reshape(1),
            "residual_scale": res.reshape(1),
            "static_beta": write_bias.clone(),
            "dynamic_beta_fn": write.mT.contiguous(),
            "h_post_scale": post,
            "norm.gamma": torch.zeros_like(maps.weight[0]),
        }


class KromHC(MHCLite):
    """The same keys with two logits for each factor of two in place of n!; its code takes powers of two only."""

    name: ClassVar[str] = "kromhc"
    about: ClassVar[str] = "wz1119/KromHC, KromHC"

    def mixing_logits(self, n: int) -> int:
        return sum(math.factorial(2) for _ in range(n.bit_length() - 1))

    def accepts(self, manifold: Manifold) -> bool:
        return isinstance(manifold, Kronecker) and all(
            isinstance(factor, Permutations) and factor.streams == 2 for factor in manifold.factors
        )

    def order(self, manifold: Manifold) -> Tensor:
        """Factors of two are symmetric."""
        return torch.arange(manifold.num_logits)


def in_order(manifold: Permutations) -> bool:
    """Whether the manifold has all permutations, in lexicographic order."""
    return list(manifold.permutations) == list(itertools.permutations(range(manifold.streams)))


def inverses(manifold: Permutations) -> Tensor:
    """For each permutation the place of its inverse."""
    place = {permutation: k for k, permutation in enumerate(manifold.permutations)}
    return torch.tensor([place[tuple(sorted(range(len(p)), key=p.__getitem__))] for p in manifold.permutations])
