"""Where a source's keys of each site, and of the streams' end, begin in a state dict."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..layers import HyperConnection, Stack
from ..layers.streams import Collapse
from .source import Source


class Place(NamedTuple):
    """A module, and how its keys begin."""

    module: HyperConnection | Collapse
    prefix: str


def places(target: Any, source: Source, prefix: str | Sequence[str], head: str | None) -> list[Place]:
    """The sites and the end in a target, each with its prefix.

    Raises:
        TypeError: target is none of those accepted.
        ValueError: the source's weights have no meaning in a site, or the prefix does not say where sites are.
    """
    if isinstance(target, Stack):
        return in_stack(target, source, prefix, head)
    if not isinstance(prefix, str):
        raise ValueError(f"prefix: got {prefix!r}; a {type(target).__name__} accepts a string")
    if isinstance(target, HyperConnection):
        source.check(target)
    elif isinstance(target, Collapse):
        check_end(target, source)
    else:
        raise TypeError(
            f"target: got {type(target).__name__}; accepted: a HyperConnection, a Collapse with a head, or a Stack of"
            " hyper-connections"
        )
    return [Place(target, prefix)]


def in_stack(stack: Stack, source: Source, prefix: str | Sequence[str], head: str | None) -> list[Place]:
    """`places` of a whole stack."""
    found = []
    for site, begins in zip(stack, site_prefixes(len(stack), source, prefix), strict=True):
        if not isinstance(site, HyperConnection):
            raise ValueError(
                f"target: got a stack of {type(site).__name__}s; accepted: stacks of hyper-connections, as recipe"
                f" {source.recipe().name!r} makes"
            )
        source.check(site)
        found.append(Place(site, begins))
    end = stack.collapse
    if isinstance(end, Collapse):
        if source.ending not in ("", end.how) and type(end) is Collapse:
            raise ValueError(
                f"target: got a stack that ends in {end.how!r}; source {source.name!r} ends its streams in"
                f" {source.ending!r}, as streammix.checkpoints.recipe({source.name!r}) does"
            )
        if end.head is not None:
            check_end(end, source)
            found.append(Place(end, head_prefix(source, prefix, head)))
    return found


def check_end(end: Collapse, source: Source) -> None:
    """Raise ValueError unless the source has weights for this end."""
    if end.head is None or not source.head:
        what = f"of how={end.how!r}, which has no parameters" if end.head is None else "with a head"
        has = "has a head" if source.head else "has no learned end of the streams"
        raise ValueError(f"target: got a Collapse {what}; source {source.name!r} {has}")


def site_prefixes(count: int, source: Source, prefix: str | Sequence[str]) -> list[str]:
    """How the keys of each of a network's sites begin."""
    if not isinstance(prefix, str):
        if len(prefix) != count:
            raise ValueError(f"prefix: got {len(prefix)} prefixes; accepted: one for each of the {count} sites")
        return list(prefix)
    template = template_of(source, prefix)
    parts = source.parts or ("0", "1")
    return [template.format(site=k, layer=k // 2, part=parts[k % 2]) for k in range(count)]


def template_of(source: Source, prefix: str) -> str:
    """The prefix with {site}, {layer} or {part} in it."""
    template = prefix if "{" in prefix else f"{prefix}{source.template}" if source.template else ""
    fields = set(re.findall(r"\{(\w*)\}", template))
    if not fields or not fields <= {"site", "layer", "part"} or ("part" in fields and not source.parts):
        raise ValueError(
            f"prefix: got {prefix!r}; the sites of a stack from source {source.name!r} accept a name with {{site}}, the"
            " number of a site, or {layer}, half of it, or a list of one prefix for each site"
            + f"; or what comes before {source.template!r}"
            * bool(source.template)
        )
    return template


def head_prefix(source: Source, prefix: str | Sequence[str], head: str | None) -> str:
    """How the keys of the streams' end begin."""
    if head is not None:
        return head
    if source.template and isinstance(prefix, str) and "{" not in prefix:
        return f"{prefix}{source.head}"
    raise ValueError("head: got None; accepted with this prefix: how the keys of the streams' end begin")


def of_other_sites(source: Source, prefix: str | Sequence[str], names: Iterable[str]) -> re.Pattern[str] | None:
    """What matches keys of a network's sites, whichever their number; None where prefixes do not say."""
    if not isinstance(prefix, str):
        return None
    template = re.escape(template_of(source, prefix))
    for field, matches in (("site", r"\d+"), ("layer", r"\d+"), ("part", "|".join(source.parts))):
        template = template.replace(re.escape(f"{{{field}}}"), f"(?:{matches})")
    return re.compile(f"{template}(?:{'|'.join(map(re.escape, names))})")
