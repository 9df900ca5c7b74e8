"""TransformerEngine: phi, alpha and beta, the stream being the fast index of the state."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from .. import recipes
from ..layers import HyperConnection
from ..recipes import Recipe
from .maps import FlattenedSource, Maps, absorbed
from .source import Keys


class TransformerEngine(FlattenedSource):
    """phi (24, 4 C) whose column c 4 + s belongs to channel c of stream s; alpha (3), beta (1, 24) and, if the norm has
    a gain, norm_weight (4 C) in the same order. Its functions take tensors: these are their arguments' names."""

    name: ClassVar[str] = "transformer-engine"
    about: ClassVar[str] = "TransformerEngine 2.20, triton/mhc"

    def recipe(self, *, iters: int = 20) -> Recipe:  # type: ignore[override]
        return replace(
            recipes.get("deepseek-v4"),
            name="transformer-engine",
            source="TransformerEngine 2.20, mhc_generate_mix_and_aggregate",
            note="Its formulas; the norm's eps is the computing dtype's. The start is the user's, here DeepSeek-V4's,"
            " and so is how streams end.",
            manifold_options={"recipe": "transformer-engine", "rounds": iters},
            norm_eps=None,
            read_eps=0.0,
            collapse="mean",
        )

    def check(self, site: HyperConnection) -> None:
        super().check(site)
        if site.streams != 4:
            self.refuse(site, f"which has {site.streams} streams where the source has 4")

    def keys(self, site: HyperConnection) -> Keys:
        return Keys(
            {"phi": (24, 4 * site.dim), "alpha": (3,), "beta": (1, 24)}, optional={"norm_weight": (4 * site.dim,)}
        )

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        weight = absorbed(given["phi"], given.get("norm_weight"))
        by_stream = weight.unflatten(-1, (dim, n)).mT.flatten(-2)
        return Maps(by_stream, given["beta"].flatten(), given["alpha"])

    def given(self, n: int, dim: int, maps: Maps) -> dict[str, Tensor]:
        phi = maps.weight.unflatten(-1, (n, dim)).mT.flatten(-2)
        return {"phi": phi, "alpha": maps.gate, "beta": maps.bias.unsqueeze(0)}
