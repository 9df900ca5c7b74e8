"""What a source of checkpoints is: the keys it has for a site, and how its numbers become ours and ours its."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from ..layers import HyperConnection
from ..layers.connections import Connection
from ..layers.streams import Collapse
from ..recipes import Recipe

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Keys:
    """The keys of one site, after its prefix.

    required, optional: by their shapes.
    others: beginnings of keys that are no weights of the connection: its branch, constants.
    """

    required: Mapping[str, Shape]
    optional: Mapping[str, Shape] = field(default_factory=dict)
    others: tuple[str, ...] = ()


class Source:
    """One library's way to store hyper-connections. Each is a file of its own.

    Attributes:
        name: what `load(source=...)` takes.
        about: what it is, with versions.
        template: how the keys of a whole network's sites begin, or "" where every user names them: with {layer}, half a
            site's number, and {part}.
        parts: the names of a layer's two sites.
        head: how the keys of the streams' learned end begin, or "".
        ending: how streams end, or "" where that is left to the user.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    template: ClassVar[str] = ""
    parts: ClassVar[tuple[str, ...]] = ()
    head: ClassVar[str] = ""
    ending: ClassVar[Literal["", "sum", "mean", "head"]] = ""

    def recipe(self) -> Recipe:
        """The recipe of a site that computes what the source does; subclasses take the source's own settings."""
        raise NotImplementedError

    def check(self, site: HyperConnection) -> None:
        """Raise ValueError unless the source's weights have a meaning in this site."""
        raise NotImplementedError

    def keys(self, site: HyperConnection) -> Keys:
        """The keys for a site of this size."""
        raise NotImplementedError

    def read(self, site: HyperConnection, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The site's parameters by name, from the source's keys."""
        raise NotImplementedError

    def write(self, site: HyperConnection) -> dict[str, Tensor]:
        """The source's keys, from the site's parameters."""
        raise NotImplementedError

    def head_keys(self, collapse: Collapse) -> Keys:
        """The keys of the streams' learned end, where the source has one."""
        raise NotImplementedError

    def read_head(self, collapse: Collapse, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The end's parameters by name."""
        raise NotImplementedError

    def write_head(self, collapse: Collapse) -> dict[str, Tensor]:
        """The source's keys of the end."""
        raise NotImplementedError

    def refuse(self, site: Connection, why: str) -> None:
        """Raise the ValueError that every `check` ends in."""
        raise ValueError(
            f"site: got one of recipe {site.recipe.name!r}, {why}; source {self.name!r} accepts sites of"
            f" streammix.checkpoints.recipe({self.name!r})"
        )
