"""What can be measured: suites of parts, each with its rows, tables and pictures."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

Rows = list[dict[str, Any]]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One measurement: `measure(progress)` gives rows of plain numbers and strings, `show` what to print of them."""

    measure: Callable[[Progress], Rows]
    show: Callable[[Rows], Iterable[RenderableType]]


@dataclass(frozen=True)
class Suite:
    """What can be measured together.

    settings: a dataclass of defaults; its fields are the options that the suite takes.
    parts: settings -> name -> part, in the order in which they run. Raises LabError for settings out of range.
    panels: name of a part -> how to draw its rows on matplotlib Axes, for the parts that have a picture.
    """

    settings: type[Any]
    parts: Callable[[Any], Mapping[str, Part]]
    panels: Mapping[str, Callable[[Any, Rows], None]]
