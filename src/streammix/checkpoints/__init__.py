"""Weights of other implementations in our sites, and back.

    site = sm.HyperConnection(block, dim, 4, sm.checkpoints.recipe("liger", tmax=20), site=0)
    sm.checkpoints.load(site, liger_layer.state_dict(), source="liger")
    state = sm.checkpoints.export(site, source="liger")

Layouts, transposes, gains and orientations are converted. A site of `recipe(source)` then computes the source's
formula; one with another set for its mixing, the exact projection in place of Sinkhorn say, gets the same logits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_called
from .._parameters import assign
from ..layers import Collapse, HyperConnection, Stack
from ..recipes import Recipe
from .deepseek import DeepSeekV4, DeepSeekV4InTransformers
from .fit import fitting, keys_of
from .hyper_connections import HyperConnections, ManifoldConstrained, SecondManifoldConstrained
from .liger import Liger
from .megatron import Megatron, MegatronTransposed
from .mhc_lite import KromHC, MHCLite
from .places import places
from .shc import SHC
from .source import Source
from .tbp import RTBP, TBP
from .tile_kernels import TileKernels
from .transformer_engine import TransformerEngine

__all__ = ["export", "load", "recipe", "sources"]

_SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        DeepSeekV4(),
        DeepSeekV4InTransformers(),
        TileKernels(),
        Liger(),
        TransformerEngine(),
        Megatron(),
        MegatronTransposed(),
        HyperConnections(),
        ManifoldConstrained(),
        SecondManifoldConstrained(),
        MHCLite(),
        KromHC(),
        SHC(),
        TBP(),
        RTBP(),
    )
}


def sources() -> dict[str, str]:
    """What `source` may be, and what each is."""
    return {name: source.about for name, source in _SOURCES.items()}


def recipe(source: str, **settings: Any) -> Recipe:
    """The recipe of sites that compute what the source does.

    Args:
        source: a name of `sources()`.
        settings: the source's own, by its own names: hc_sinkhorn_iters, hc_eps and rms_norm_eps of DeepSeek-V4, tmax,
            rms_eps, pre_eps, sinkhorn_eps and post_mult of Liger, and so on; see docs/checkpoints.md.

    Raises:
        ValueError: an unknown source, or a value that no recipe takes.
        TypeError: a setting that the source does not have.
    """
    return _source(source).recipe(**settings)


def load(
    target: HyperConnection | Collapse | Stack,
    state_dict: Mapping[str, Any],
    source: str,
    *,
    prefix: str | Sequence[str] = "",
    head: str | None = None,
) -> tuple[str, ...]:
    """Copy a source's weights into a site, a learned end of streams, or a stack of sites and their end.

    Branches are left alone, and keys that begin otherwise than with a prefix are not looked at: a state dict may be a
    whole model's. Weights are all converted before the first is written, so that an error leaves the target as it was.

    Args:
        target: what to fill; made with `recipe(source)`, it computes what the source does.
        state_dict: from names to tensors.
        source: a name of `sources()`.
        prefix: how the keys of a site, or of an end, begin. For a stack: what comes before the source's own names, or a
            name with {site} (number of the site) or {layer} (half of it), or a list of one prefix for each site.
        head: how the keys of a stack's end begin, where prefix does not say.

    Returns:
        The keys that were used.

    Raises:
        TypeError: target is something else.
        ValueError: an unknown source; a target in which the weights have no meaning; a parameter on the meta device;
            or keys that are missing, unknown or of another shape: the message lists every one.
    """
    own = _source(source)
    found = places(target, own, prefix, head)
    parts = fitting(state_dict, own, found, target, prefix)
    written: list[tuple[nn.Parameter, Tensor]] = []
    for place, part in zip(found, parts, strict=True):
        module = place.module
        is_site = isinstance(module, HyperConnection)
        values = own.read(module, part) if is_site else own.read_head(module, part)  # type: ignore[arg-type]
        written += [(parameter_of(module, name), value) for name, value in values.items()]
    with torch.no_grad():
        for parameter, value in written:
            assign(parameter, value)
    return tuple(f"{place.prefix}{name}" for place, part in zip(found, parts) for name in part)


def export(
    target: HyperConnection | Collapse | Stack,
    source: str,
    *,
    prefix: str | Sequence[str] = "",
    head: str | None = None,
) -> dict[str, Tensor]:
    """A site's, an end's or a stack's weights as the source has them, copied; the arguments are those of `load`.

    Raises:
        TypeError: target is something else.
        ValueError: an unknown source, or a target that the source cannot express.
    """
    own = _source(source)
    state = {}
    for place in places(target, own, prefix, head):
        module = place.module
        is_site = isinstance(module, HyperConnection)
        values = own.write(module) if is_site else own.write_head(module)  # type: ignore[arg-type]
        assert values.keys() == keys_of(own, place).required.keys()
        state.update({f"{place.prefix}{name}": value for name, value in values.items()})
    return state


def parameter_of(module: nn.Module, name: str) -> nn.Parameter:
    """A parameter by its name, one that has memory."""
    parameter = module.get_parameter(name)
    if parameter.is_meta:
        raise ValueError(
            f"target: its parameter {name} is on the meta device; accepted: parameters with memory, as"
            " target.to_empty(device=...) gives them"
        )
    return parameter


def _source(name: str) -> Source:
    check_called("source", name, _SOURCES)
    return _SOURCES[name]
