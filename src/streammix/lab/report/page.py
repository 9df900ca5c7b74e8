"""One self-contained HTML page of text, tables and plots: nothing is fetched when it is opened."""

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined

import streammix
from streammix.lab.report.style import MAPS, PAGE, Palette
from streammix.lab.report.table import Table


@dataclass
class Plot:
    """A figure with its heading and the sentence that says what it means and how to read it."""

    title: str
    sentence: str
    figure: go.Figure
    clock: str = ""
    """Which of the page's clocks its curves over steps go by."""
    number: int = 0
    """Its place among the page's figures, which `page` sets."""


@dataclass
class Section:
    """A heading and what is under it: a remark, a table, plots."""

    title: str
    plots: Sequence[Plot] = ()
    text: str = ""
    table: Table | None = None
    thirds: bool = False
    """Three plots side by side on a wide page rather than two."""
    slider: bool = False
    """Whether a slider above the plots chooses the step that they show."""


@functools.cache
def environment() -> Environment:
    """The templates beside this file. They escape all that they are given; a name they are not given is an error."""
    made = Environment(
        loader=PackageLoader("streammix.lab.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Sorted keys, jinja's choice, would reorder the figures' traces for no use.
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return made


@functools.cache
def plotly() -> str:
    """The part of plotly.js that draws lines, bars and points: a quarter of the whole."""
    return (files("streammix.lab.report") / "plotly" / "plotly-basic.min.js").read_text(encoding="utf-8")


def page(
    template: str,
    title: str,
    sections: Sequence[Section],
    palette: Palette,
    *,
    clocks: Mapping[str, Mapping[str, Any]] | None = None,
    course: Mapping[str, Any] | None = None,
    **parts: Any,
) -> str:
    """The whole document; `parts` are what the template asks for, as plain data.

    A line of the legend hides its recipe in all plots and every element with that `data-of`.

    Args:
        clocks: by a plot's `clock` and a line's name, what steps were in tokens and seconds, see clocks.py.
        course: what the slider sets the maps by, see course.py.
    """
    plots = [plot for section in sections for plot in section.plots]
    for number, plot in enumerate(plots):
        plot.number = number
    figures = [short(json.loads(plot.figure.to_json())) for plot in plots]
    return (
        environment()
        .get_template(template)
        .render(
            parts,
            version=streammix.__version__,
            title=title,
            sections=sections,
            light=variables(palette, 0),
            dark=variables(palette, 1),
            legend=legend(palette),
            plotly=plotly(),
            axes=bool(clocks),
            places=course["steps"] if course else [],
            data={"figures": figures, "dark": palette.dark(), "clocks": clocks or {}, "course": course},
        )
    )


def short(value: Any) -> Any:
    """JSON with numbers of seven digits, which is more than a plot shows and half of what they take."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, list):
        return [short(one) for one in value]
    return {name: short(one) for name, one in value.items()} if isinstance(value, dict) else value


def variables(palette: Palette, theme: int) -> dict[str, str]:
    """The page's colours as CSS variables, light (0) or dark (1)."""
    lines = {f"c{i}": pair[theme] for i, pair in enumerate(palette.colours.values())}
    return {role: pair[theme] for role, pair in itertools.chain(PAGE.items(), MAPS.items())} | lines


def legend(palette: Palette) -> list[dict[str, Any]]:
    """For each recipe its line as the plots draw it."""
    lines = []
    for name in palette.colours:
        line = palette.line(name)
        dash = str(line["dash"]).replace("px", "").replace("solid", "none")
        lines.append({"name": name, "colour": palette.index(name), "width": line["width"], "dash": dash})
    return lines
