"""Liger-Kernel: LigerMHC's phi, b and three gates."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import recipes
from ..layers import HyperConnection
from ..recipes import Recipe
from .maps import FlattenedSource, Maps, scalar
from .source import Keys

GATES = ("alpha_pre", "alpha_post", "alpha_res")


class Liger(FlattenedSource):
    """phi (n C, n^2 + 2n), transposed against DeepSeek's fn; b; a gate each. h_res itself mixes. The wrapped module's
    keys begin with `layer.`."""

    name: ClassVar[str] = "liger"
    about: ClassVar[str] = "Liger-Kernel 0.8, LigerMHC"
    transposed = False

    def recipe(  # type: ignore[override]
        self,
        *,
        tmax: int = 20,
        rms_eps: float = 1e-6,
        pre_eps: float = 0.0,
        sinkhorn_eps: float = 1e-6,
        post_mult: float = 2.0,
    ) -> Recipe:
        return replace(
            recipes.get("deepseek-v4"),
            name="liger",
            source="Liger-Kernel 0.8, LigerMHC",
            note="Its formulas and its start: gates 1, weights N(0, 0.02^2), biases zero. Streams end as users want.",
            manifold_options={"recipe": "liger", "rounds": tmax, "eps": sinkhorn_eps},
            norm_eps=rms_eps,
            read_eps=pre_eps,
            write="sigmoid",
            write_multiplier=post_mult,
            collapse="mean",
        )

    def keys(self, site: HyperConnection) -> Keys:
        n, rows = site.streams, (2 + site.streams) * site.streams
        return Keys({"phi": (n * site.dim, rows), "b": (rows,), **dict.fromkeys(GATES, ())}, others=("layer.",))

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        return Maps(given["phi"].mT, given["b"], torch.cat([scalar(given[gate]) for gate in GATES]))

    def given(self, n: int, dim: int, maps: Maps) -> dict[str, Tensor]:
        gates = {name: gate.clone() for name, gate in zip(GATES, maps.gate)}
        return {"phi": maps.weight.mT.contiguous(), "b": maps.bias, **gates}
