"""TBP-mHC and RTBP2N: mHC-lite's keys, alpha being a matrix of a row for each stream."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import recipes
from ..layers import HyperConnection
from ..manifolds import Manifold, Transportation
from ..recipes import Recipe
from .maps import Maps
from .mhc_lite import MHCLite
from .source import Keys


class TBP(MHCLite):
    """static_alpha (n, 1 + n) and dynamic_alpha_fn (n C, n (1 + n)): row s has stream s's read and its mixing logits,
    of which the last and those of the last stream are unused, here dropped and written back as zeros. delta_logit (),
    if the matrix is minorised. The rest as in mHC-lite."""

    name: ClassVar[str] = "tbp"
    about: ClassVar[str] = "alyubinin/tbp-mHC, TBP_MHC"
    chart: ClassVar[str] = "sequential"

    def recipe(self, *, make_dse: bool = True) -> Recipe:  # type: ignore[override]
        options = {"chart": self.chart, "minorised": make_dse, "transposed": True}
        base = recipes.get(self.name)
        note = f"{base.note} Here the transpose of the chart's matrix mixes, as in the code."
        return replace(base, manifold_options=options, collapse="sum", start="authors", note=note)

    def mixing_logits(self, n: int) -> int:
        return (n - 1) ** 2

    def accepts(self, manifold: Manifold) -> bool:
        fits = isinstance(manifold, Transportation) and (manifold.chart, manifold.scaled) == (self.chart, False)
        return fits and bool(manifold.transposed)

    def order(self, manifold: Manifold) -> Tensor:
        return torch.arange(manifold.num_logits)

    def static_shape(self, n: int) -> tuple[int, ...]:
        return (n, 1 + n)

    def keys(self, site: HyperConnection) -> Keys:
        n = site.streams
        keys = super().keys(site)
        required = {**keys.required, "dynamic_alpha_fn": (n * site.dim, n * (1 + n))}
        if site.manifold.share is not None:
            required["delta_logit"] = ()
        return replace(keys, required=required)

    def maps(self, n: int, dim: int, given: Mapping[str, Tensor]) -> Maps:
        def used(alpha: Tensor) -> Tensor:
            """(..., n, 1 + n) -> (..., n + (n - 1)^2): the reads, and the logits that the chart takes."""
            return torch.cat([alpha[..., 0], alpha[..., : n - 1, 1:n].flatten(-2)], -1)

        made = {
            **given,
            "static_alpha": used(given["static_alpha"]),
            "dynamic_alpha_fn": used(given["dynamic_alpha_fn"].unflatten(-1, (n, 1 + n))),
        }
        maps = super().maps(n, dim, made)
        return replace(maps, further={"share": given["delta_logit"].reshape(1)}) if "delta_logit" in given else maps

    def given(self, n: int, dim: int, maps: Maps) -> dict[str, Tensor]:
        def filled(alpha: Tensor) -> Tensor:
            """The inverse of `used`."""
            out = alpha.new_zeros(*alpha.shape[:-1], n, 1 + n)
            out[..., 0] = alpha[..., :n]
            out[..., : n - 1, 1:n] = alpha[..., n:].unflatten(-1, (n - 1, n - 1))
            return out

        made = super().given(n, dim, maps)
        made["static_alpha"] = filled(made["static_alpha"])
        made["dynamic_alpha_fn"] = filled(made["dynamic_alpha_fn"]).flatten(-2)
        if "share" in maps.further:
            made["delta_logit"] = maps.further["share"].reshape(())
        return made


class RTBP(TBP):
    """The same keys for the recursive chart; its code takes powers of two only."""

    name: ClassVar[str] = "rtbp"
    about: ClassVar[str] = "alyubinin/tbp-mHC, RTBP2N_MHC"
    chart: ClassVar[str] = "recursive"
