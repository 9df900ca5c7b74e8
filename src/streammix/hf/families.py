"""The families of transformers that have hyper-connections of their own, and what takes the place of their parts.

A new family is one entry here, and a mixin in layers.py if its layer calls its branches in a way of its own.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module

from torch import nn

from . import layers, sites
from .swapping import Accelerated


@dataclass(frozen=True)
class Family:
    """Names in transformers.models.<name>.modeling_<name>, and the mixin for each.

    name: the model type.
    site, head, layer: class of a site (attention's or the MLP's), of the streams' end, and of a decoder layer.
    mixes: whether a site mixes streams by a matrix; `site` then has a mixin for each projection.
    """

    name: str
    layer: tuple[str, type[Accelerated]]
    site: tuple[str, type[Accelerated], type[Accelerated]] | None = None
    head: tuple[str, type[Accelerated]] | None = None
    mixes: bool = False


FAMILIES = (
    Family(
        "deepseek_v4",
        layer=("DeepseekV4DecoderLayer", layers.DeepseekV4Layer),
        site=("DeepseekV4HyperConnection", sites.TruncatedSite, sites.ExactSite),
        head=("DeepseekV4HyperHead", sites.Head),
        mixes=True,
    ),
    Family(
        "glm5_next",
        layer=("Glm5NextTextDecoderLayer", layers.Glm5NextLayer),
        site=("Glm5NextTextHyperConnection", sites.TruncatedSite, sites.ExactSite),
        mixes=True,
    ),
    Family(
        "hy_v4",
        layer=("HYV4DecoderLayer", layers.Hy4Layer),
        site=("HYV4HyperConnection", sites.IndependentSite, sites.IndependentSite),
        head=("HYV4HyperHead", sites.Head),
    ),
    Family(
        "hy_v4_vl",
        layer=("HYV4VLDecoderLayer", layers.Hy4Layer),
        site=("HYV4VLHyperConnection", sites.IndependentSite, sites.IndependentSite),
        head=("HYV4VLHyperHead", sites.Head),
    ),
    Family("qwen4_exp", layer=("Qwen4ExpTextDecoderLayer", layers.Qwen4ExpLayer)),
)


@cache
def mixins(exact: bool) -> dict[type[nn.Module], tuple[Family, type[Accelerated]]]:
    """Class of the installed transformers -> its family, and what takes its place; for one of the projections."""
    found: dict[type[nn.Module], tuple[Family, type[Accelerated]]] = {}
    for family in FAMILIES:
        try:
            theirs = import_module(f"transformers.models.{family.name}.modeling_{family.name}")
        except ModuleNotFoundError:  # the installed release does not have it
            continue
        found[getattr(theirs, family.layer[0])] = family, family.layer[1]
        if family.site is not None:
            name, truncated, projected = family.site
            found[getattr(theirs, name)] = family, projected if exact else truncated
        if family.head is not None:
            found[getattr(theirs, family.head[0])] = family, family.head[1]
    return found
