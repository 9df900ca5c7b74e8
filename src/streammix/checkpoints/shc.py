"""sHC: SHyperConnections' three projections, with a scale for each part of its mixing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .. import recipes
from ..layers import HyperConnection
from ..manifolds import Manifold, SpectralSphere
from ..recipes import Recipe
from .maps import FlattenedSource, Maps, absorbed, scalar
from .source import Keys

CONSTANTS = ("J", "Uz", "eye_sm1", "triu_i", "triu_j")
SCALES = ("residual_rot_scale_u", "residual_rot_scale_v", "residual_val_scale")


class SHC(FlattenedSource):
    """to_alpha_pre.weight (n, n C), static_alpha_pre (n, 1), to_alpha_residual.weight ((n - 1)^2, n C),
    static_alpha_residual ((n - 1)^2), to_beta.weight (n, n C), static_beta (n), pre_branch_scale (1), h_post_scale (),
    three scales of the mixing (1), gamma_u and gamma_v (1), norm.gamma (n C); and constants.

    A site has one gate for the mixing: the largest of the three scales, by which the rows of the others are scaled. The
    transpose mixes, which exchanges U and V. Streams end in their sum."""

    name: ClassVar[str] = "shc"
    about: ClassVar[str] = "6zHAOyi/s2HC, SHyperConnections"
    ending: ClassVar[Literal["", "sum", "mean", "head"]] = "sum"

    def recipe(self) -> Recipe:
        return replace(recipes.get("shc"), collapse="sum", start="authors")

    def mixing_logits(self, n: int) -> int:
        return (n - 1) ** 2

    def accepts(self, manifold: Manifold) -> bool:
        return isinstance(manifold, SpectralSphere)

    def order(self, manifold: Manifold) -> Tensor:
        assert isinstance(manifold, SpectralSphere)
        u, v, sigma = torch.arange(manifold.num_logits).split(manifold.sizes)
        return torch.cat([v, u, sigma])

    def keys(self, site: HyperConnection) -> Keys:
        n, width, m = site.streams, site.streams * site.dim, (site.streams - 1) ** 2
        return Keys(
            {
                "to_alpha_pre.weight": (n, width),
                "static_alpha_pre": (n, 1),
                "to_alpha_residual.weight": (m, width),
                "static_alpha_residual": (m,),
                "to_beta.weight": (n, width),
                "static_beta": (n,),
                "pre_branch_scale": (1,),
                "h_post_scale": (),
                **dict.fromkeys(SCALES, (1,)),
                "gamma_u": (1,),
                "gamma_v": (1,),
                "norm.gamma": (width,),
            },
            others=("branch.", "residual_transform.", *CONSTANTS),
        )

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        scales = torch.cat([scalar(given[name]) for name in SCALES])
        gate = scales[scales.abs().argmax()].reshape(1)
        # Equal scales, and a gate of zero, leave the weights as they are to the bit.
        shares = torch.where(scales == gate, 1.0, scales / torch.where(gate == 0, 1.0, gate))
        k = (n - 1) * (n - 2) // 2
        parts = torch.tensor((k, k, n - 1), device=shares.device)
        mix = given["to_alpha_residual.weight"] * shares.repeat_interleave(parts).unsqueeze(-1)
        weight = torch.cat([given["to_alpha_pre.weight"], given["to_beta.weight"], mix])
        bias = torch.cat([given["static_alpha_pre"].flatten(), given["static_beta"], given["static_alpha_residual"]])
        gates = torch.cat([scalar(given["pre_branch_scale"]), scalar(given["h_post_scale"]), gate])
        gamma = torch.cat([given["gamma_v"], given["gamma_u"]])
        return Maps(absorbed(weight, given["norm.gamma"] + 1), bias, gates, {"gamma": gamma})

    def given(self, n: int, dim: int, maps: Maps) -> dict[str, Tensor]:
        read, write, mix = maps.weight.split((n, n, (n - 1) ** 2))
        read_bias, write_bias, mix_bias = maps.bias.split((n, n, len(mix)))
        pre, post, res = maps.gate.clone()
        gamma_v, gamma_u = maps.further["gamma"].split(1)
        return {
            "to_alpha_pre.weight": read.clone(),
            "static_alpha_pre": read_bias.unsqueeze(-1).clone(),
            "to_alpha_residual.weight": mix.clone(),
            "static_alpha_residual": mix_bias.clone(),
            "to_beta.weight": write.clone(),
            "static_beta": write_bias.clone(),
            "pre_branch_scale": pre.reshape(1),
            "h_post_scale": post,
            **{name: res.reshape(1).clone() for name in SCALES},
            "gamma_u": gamma_u.clone(),
            "gamma_v": gamma_v.clone(),
            "norm.gamma": torch.zeros_like(maps.weight[0]),
        }
