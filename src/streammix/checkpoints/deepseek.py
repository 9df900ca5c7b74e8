"""DeepSeek-V4: fn, base and scale, by the names of the released weights and by those of transformers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from .. import recipes
from ..layers import HyperConnection
from ..layers.streams import Collapse
from ..recipes import Recipe
from .maps import FlattenedSource, Maps, whole
from .source import Keys


class DeepSeekV4(FlattenedSource):
    """fn ((2 + n) n, n C), base ((2 + n) n), scale (3); rows are reads, writes and comb, whose transpose mixes."""

    name: ClassVar[str] = "deepseek-v4"
    about: ClassVar[str] = "DeepSeek-V4 and V4.1, released weights"
    template: ClassVar[str] = "layers.{layer}.hc_{part}_"
    parts: ClassVar[tuple[str, ...]] = ("attn", "ffn")
    head: ClassVar[str] = "hc_head_"
    head_names: ClassVar[tuple[str, str, str]] = ("fn", "base", "scale")

    def recipe(  # type: ignore[override]
        self, *, hc_sinkhorn_iters: int = 20, hc_eps: float = 1e-6, rms_norm_eps: float = 1e-6
    ) -> Recipe:
        options = {"recipe": "deepseek-v4", "rounds": hc_sinkhorn_iters, "eps": hc_eps}
        base = recipes.get("deepseek-v4")
        return replace(base, manifold_options=options, read_eps=hc_eps, norm_eps=rms_norm_eps)

    def keys(self, site: HyperConnection) -> Keys:
        n, rows = site.streams, (2 + site.streams) * site.streams
        return Keys({"fn": (rows, n * site.dim), "base": (rows,), "scale": (3,)})

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        return Maps(given["fn"], given["base"], given["scale"])

    def given(self, n: int, dim: int, maps: Maps) -> dict[str, Tensor]:
        return {"fn": maps.weight, "base": maps.bias, "scale": maps.gate}

    def head_keys(self, collapse: Collapse) -> Keys:
        n = collapse.streams
        fn, base, scale = self.head_names
        return Keys({fn: (n, n * collapse.dim), base: (n,), scale: (1,)})

    def read_head(self, collapse: Collapse, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fn, base, scale = self.head_names
        return {"head.weight": given[fn], "head.bias": given[base], "head.gate": given[scale]}

    def write_head(self, collapse: Collapse) -> dict[str, Tensor]:
        assert collapse.head is not None
        of = (collapse.head.weight, collapse.head.bias, collapse.head.gate)
        return {name: whole(value) for name, value in zip(self.head_names, of)}


class DeepSeekV4InTransformers(DeepSeekV4):
    """The same numbers as DeepseekV4HyperConnection and DeepseekV4HyperHead have them."""

    name: ClassVar[str] = "deepseek-v4-hf"
    about: ClassVar[str] = "DeepSeek-V4 in transformers 5, deepseek_v4"
    template: ClassVar[str] = "layers.{layer}.{part}_hc."
    head: ClassVar[str] = "hc_head."
    head_names: ClassVar[tuple[str, str, str]] = ("hc_fn", "hc_base", "hc_scale")
