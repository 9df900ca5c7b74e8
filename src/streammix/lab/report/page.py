"""One self-contained HTML page of text, tables and plots: nothing is fetched when it is opened."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

import streammix
from streammix.lab.report.style import PAGE, Palette


@dataclass
class Plot:
    """A figure with its heading and the sentence that says what it means and how to read it."""

    title: str
    sentence: str
    figure: go.Figure


@dataclass
class Section:
    """Plots under a heading, or ready HTML, or both."""

    title: str
    plots: Sequence[Plot] = ()
    html: str = ""
    thirds: bool = field(default=False)
    """Three plots side by side on a wide page rather than two."""


def page(title: str, intro: str, sections: Sequence[Section], footer: str, palette: Palette) -> str:
    """The whole document. `intro`, `footer` and the sections' `html` are HTML; everything else is text.

    A line of the legend hides its recipe in all plots and every element with that `data-of`.
    """
    figures: list[dict[str, Any]] = []
    parts = []
    for section in sections:
        plots = []
        for plot in section.plots:
            plots.append(
                f"<figure><figcaption><h3>{escape(plot.title)}</h3><p>{escape(plot.sentence)}</p></figcaption>"
                f'<div class="plot" data-plot="{len(figures)}"></div>'
                f'<button type="button" class="save" data-csv="{len(figures)}">save as CSV</button></figure>'
            )
            figures.append(json.loads(plot.figure.to_json()))
        grid = f'<div class="plots{" thirds" * section.thirds}">{"".join(plots)}</div>' if plots else ""
        parts.append(f"<section><h2>{escape(section.title)}</h2>{section.html}{grid}</section>")

    # A name must be able neither to end the script element nor to begin a comment in it.
    data = json.dumps({"figures": figures, "dark": palette.dark()}).replace("<", "\\u003c")
    return Template(asset("page.html")).substitute(
        version=streammix.__version__,
        title=escape(title),
        colours=colours(palette),
        css=asset("page.css"),
        intro=intro,
        legend=legend(palette),
        sections="\n".join(parts),
        footer=footer,
        plotly=get_plotlyjs(),
        data=data,
        js=asset("page.js"),
    )


def asset(name: str) -> str:
    return files("streammix.lab.report").joinpath(name).read_text(encoding="utf-8")


def colours(palette: Palette) -> str:
    """The page's colours as CSS variables, for light and dark."""

    def variables(theme: int, maps: str) -> str:
        roles = "".join(f"--{role}:{pair[theme]};" for role, pair in PAGE.items())
        lines = "".join(f"--c{i}:{pair[theme]};" for i, pair in enumerate(palette.colours.values()))
        return f"{roles}{lines}{maps}"

    light = variables(0, "--pos:10 99 181;--neg:194 78 0;--strong:#ffffff;")
    dark = variables(1, "--pos:95 173 255;--neg:255 143 82;--strong:#0b0e12;")
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"


def dot(palette: Palette, name: str) -> str:
    """A recipe's colour as a small disc."""
    return f'<span class="dot" style="--c:var(--c{palette.index(name)})"></span>'


def legend(palette: Palette) -> str:
    """A button for each recipe, with its line as the plots draw it."""
    buttons = []
    for name in palette.colours:
        line = palette.line(name)
        dash = str(line["dash"]).replace("px", "").replace("solid", "none")
        stroke = f"stroke:var(--c{palette.index(name)});stroke-width:{line['width']};stroke-dasharray:{dash}"
        buttons.append(
            f'<button type="button" aria-pressed="true" data-recipe="{escape(name)}" '
            f'title="Show or hide"><svg aria-hidden="true"><path d="M0 6h26" style="{stroke}"/></svg>'
            f"{escape(name)}</button>"
        )
    return f'<nav class="legend" aria-label="Connections">{"".join(buttons)}</nav>'


def definitions(rows: Mapping[str, str]) -> str:
    """A two-column list; the values are HTML."""
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in rows.items()) + "</dl>"
