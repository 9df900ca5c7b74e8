"""Megatron-LM: HyperConnectionModule's mapping_proj, bias and three gates."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .. import recipes
from ..layers import HyperConnection
from ..recipes import Recipe
from .liger import GATES
from .maps import FlattenedSource, Maps, scalar
from .source import Keys


class Megatron(FlattenedSource):
    """mapping_proj.weight (n^2 + 2n, n C), bias, a gate each. H_res itself mixes; streams end in their mean."""

    name: ClassVar[str] = "megatron"
    about: ClassVar[str] = "Megatron-LM, HyperConnectionModule with exp and clamped sums, H x"
    template: ClassVar[str] = "layers.{layer}.{part}_hyper_connection."
    parts: ClassVar[tuple[str, ...]] = ("self_attention", "mlp")
    ending: ClassVar[Literal["", "sum", "mean", "head"]] = "mean"
    transposed = False
    sinkhorn: ClassVar[str] = "megatron"
    read_eps: ClassVar[float] = 0.0

    def recipe(  # type: ignore[override]
        self, *, mhc_sinkhorn_iterations: int = 20, mhc_init_gating_factor: float = 0.01
    ) -> Recipe:
        return replace(
            recipes.get("deepseek-v4"),
            name=self.name,
            source="Megatron-LM, HyperConnectionModule",
            note="Its formulas but for the norm, x / (rms(x) + 1e-6), here x / sqrt(mean x^2 + 1e-12): 1e-6 apart where"
            " rms(x) is one. It draws weights by Xavier's rule, here N(0, 0.02^2).",
            manifold_options={"recipe": self.sinkhorn, "rounds": mhc_sinkhorn_iterations},
            norm_eps=1e-12,
            read_eps=self.read_eps,
            gate=mhc_init_gating_factor,
            collapse="mean",
        )

    def keys(self, site: HyperConnection) -> Keys:
        n, rows = site.streams, (2 + site.streams) * site.streams
        return Keys({"mapping_proj.weight": (rows, n * site.dim), "bias": (rows,), **dict.fromkeys(GATES, (1,))})

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        gates = torch.cat([scalar(given[gate]) for gate in GATES])
        return Maps(given["mapping_proj.weight"], given["bias"], gates)

    def given(self, n: int, dim: int, maps: Maps) -> dict[str, Tensor]:
        gates = {name: gate.reshape(1).clone() for name, gate in zip(GATES, maps.gate)}
        return {"mapping_proj.weight": maps.weight, "bias": maps.bias, **gates}


class MegatronTransposed(Megatron):
    """The same keys where Megatron-LM applies the transpose, with DeepSeek's Sinkhorn and eps on the reads."""

    name: ClassVar[str] = "megatron-transposed"
    about: ClassVar[str] = "Megatron-LM since #4957, HyperConnectionModule with DeepSeek's Sinkhorn, H' x"
    transposed = True
    sinkhorn: ClassVar[str] = "deepseek-v4"
    read_eps: ClassVar[float] = 1e-6
