"""DeepSeek's TileKernels: the arguments of mhc_pre and mhc_head."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from .. import recipes
from ..layers import HyperConnection
from ..layers.streams import Collapse
from ..recipes import Recipe
from .deepseek import DeepSeekV4
from .maps import Maps, absorbed
from .source import Keys


class TileKernels(DeepSeekV4):
    """fn, scale and base as in DeepSeek-V4, and norm_weight (n C) if the norm has a gain. Its functions take tensors:
    these are their arguments' names; a head's are the same."""

    name: ClassVar[str] = "tile-kernels"
    about: ClassVar[str] = "TileKernels, modeling.mhc"
    template: ClassVar[str] = ""
    parts: ClassVar[tuple[str, ...]] = ()

    def recipe(  # type: ignore[override]
        self,
        *,
        norm_eps: float = 1e-6,
        post_mult_value: float = 1.0,
        pre_eps: float = 1e-6,
        sinkhorn_eps: float = 1e-6,
        sinkhorn_repeat: int = 10,
    ) -> Recipe:
        return replace(
            recipes.get("deepseek-v4"),
            name="tile-kernels",
            source="TileKernels, mhc_pre and mhc_post",
            note="Its formulas and defaults, which DeepSeek-V4 overrides: writes up to 2 and 20 rounds.",
            manifold_options={"recipe": "deepseek-v4", "rounds": sinkhorn_repeat, "eps": sinkhorn_eps},
            norm_eps=norm_eps,
            read_eps=pre_eps,
            write="sigmoid",
            write_multiplier=post_mult_value,
        )

    def keys(self, site: HyperConnection) -> Keys:
        return Keys(super().keys(site).required, optional={"norm_weight": (site.streams * site.dim,)})

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        return Maps(absorbed(given["fn"], given.get("norm_weight")), given["base"], given["scale"])

    def head_keys(self, collapse: Collapse) -> Keys:
        size = collapse.streams * collapse.dim
        return Keys(super().head_keys(collapse).required, optional={"norm_weight": (size,)})

    def read_head(self, collapse: Collapse, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = super().read_head(collapse, given)
        return {**own, "head.weight": absorbed(own["head.weight"], given.get("norm_weight"))}
