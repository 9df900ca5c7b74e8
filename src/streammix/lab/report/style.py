"""Colours and the common look of all plots, for a light and a dark page."""

from collections.abc import Iterable

import plotly.graph_objects as go

# Role: (on a light page, on a dark one). Told apart by people with any of the usual colour blindnesses
# (after Okabe and Ito), and each at least 4.5:1 against its page.
PAGE = {
    "paper": ("#ffffff", "#15181d"),
    "ink": ("#1d2229", "#e4e8ee"),
    "quiet": ("#5a636e", "#9aa5b2"),
    "grid": ("#e3e7ec", "#2a3038"),
    "panel": ("#f5f7f9", "#1c2026"),
}
MAPS = {  # of the cells of learned maps: red, green, blue, to be mixed with a cell's own opacity
    "pos": ("10 99 181", "95 173 255"),
    "neg": ("194 78 0", "255 143 82"),
    "strong": ("#ffffff", "#0b0e12"),
}
RECIPES = {
    "residual": ("#6a737e", "#a9b3bf"),
    "hc": ("#c24e00", "#ff8f52"),
    "mhc": ("#0a63b5", "#5fadff"),
    "mhc-sinkhorn": ("#a03a86", "#e58acb"),
    "ihc": ("#007f64", "#36c79f"),
    "deepseek-v4": ("#8a6a00", "#e0bd3f"),
    "hc-static": ("#7d3a22", "#d1937a"),
}
# In this order: each new one is as far from all before it as can be, on the page where the two are closer.
OTHERS = [
    *(("#3f51d0", "#93a0ff"), ("#3d7a00", "#93cc55"), ("#b0204a", "#ff86a3"), ("#00788c", "#45c3d9")),
    *(("#284700", "#c6eda7"), ("#943fc0", "#ce79fd"), ("#7860a0", "#d9c6fe"), ("#a0545f", "#f6c2c6")),
    *(("#733893", "#d8a7f6"), ("#316632", "#96cf95"), ("#63563e", "#cabca1"), ("#49528f", "#acb8fe")),
    *(("#4e2b62", "#ba92d2"), ("#803e62", "#eea3c9"), ("#c9212e", "#f97772"), ("#65223b", "#d88aa2")),
    *(("#433d24", "#aca589"), ("#0e5e8a", "#80c7f8"), ("#67772e", "#9cae65"), ("#756f54", "#d8d1b4")),
    *(("#4071a7", "#b5d4f8"), ("#9a282b", "#f2a7a2"), ("#511aa7", "#9477ec"), ("#102a5f", "#6e8fcc")),
    *(("#155252", "#538c8b"), ("#761a64", "#c767af"), ("#412138", "#a8819c"), ("#361900", "#ab876a")),
    *(("#c50988", "#f145b9"), ("#bb08bc", "#dd45dd"), ("#172825", "#9ef5e8"), ("#2d3c53", "#337ff0")),
    *(("#594906", "#f4dd80"), ("#183e20", "#47d868"), ("#ae6406", "#f6cc95"), ("#996e39", "#f2af5d")),
    *(("#5f3b39", "#f74a42"), ("#058831", "#68e090"), ("#68101c", "#cc6270"), ("#a71862", "#e24e9b")),
    *(("#1f0775", "#8868fb"), ("#7a7b06", "#fafb80"), ("#496f56", "#a7fcc4"), ("#261d68", "#a6a2c9")),
]
SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "triangle-down"]
# These often lie right on top of each other: each lets the ones below it show.
WIDTHS = {"mhc": 3.5, "ihc": 2.5}
DASHES = {"mhc-sinkhorn": "7px,4px", "ihc": "3px,8px", "deepseek-v4": "12px,4px"}


class Palette:
    """A colour, a symbol and a dash for each recipe, the same in every plot."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        unknown = [name for name in names if name not in RECIPES]
        self.colours = {name: RECIPES[name] for name in names if name in RECIPES}
        self.colours |= {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(unknown)}
        self.colours = {name: self.colours[name] for name in names}

    def index(self, name: str) -> int:
        """The recipe's place, from zero."""
        return list(self.colours).index(name)

    def colour(self, name: str) -> str:
        """On a light page; the page's script swaps it for `dark()`'s."""
        return self.colours[name][0]

    def shade(self, name: str) -> str:
        """The recipe's colour, nearly transparent; `dark()` applies to its first six digits."""
        return f"{self.colour(name)}26"

    def dark(self) -> dict[str, str]:
        """Every colour of a light page with its counterpart on a dark one."""
        return dict([*PAGE.values(), *self.colours.values()])

    def line(self, name: str) -> dict[str, object]:
        return {"color": self.colour(name), "width": WIDTHS.get(name, 2), "dash": DASHES.get(name, "solid")}

    def marker(self, name: str, largest: float) -> dict[str, object]:
        """Smaller from recipe to recipe, so that the first still shows below the last."""
        place = self.index(name)
        size = largest * max(0.5, 1 - 0.13 * place)
        return {"color": self.colour(name), "size": size, "symbol": SYMBOLS[place % len(SYMBOLS)]}


def blank(x: str, y: str, *, log: bool = False, height: int = 320) -> go.Figure:
    """An empty figure with titled axes and no legend: the page has one for all plots."""
    ink, quiet, grid, paper = (PAGE[role][0] for role in ("ink", "quiet", "grid", "paper"))
    axis = {"gridcolor": grid, "linecolor": grid, "zeroline": False, "automargin": True, "tickcolor": grid}
    spike = {"spikethickness": 1, "spikedash": "solid", "spikecolor": quiet}
    figure = go.Figure()
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        showlegend=False,
        hovermode="x unified",
        hoverlabel={"bgcolor": paper, "bordercolor": grid, "font": {"color": ink, "size": 12}},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": quiet, "size": 12, "family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"},
        xaxis={**axis, **spike, "title": {"text": x, "standoff": 8}},
        yaxis={**axis, "title": {"text": y, "standoff": 8}},
    )
    figure.update_xaxes(unifiedhovertitle={"text": f"{x.split()[0]} %{{x}}"})
    if log:
        figure.update_yaxes(type="log", dtick=1, exponentformat="power", minor={"showgrid": False})
    return figure


def reference(figure: go.Figure, y: float, text: str) -> None:
    """A thin dotted line at `y` across the plot, named above its right end."""
    quiet = PAGE["quiet"][0]
    figure.add_hline(
        y=y,
        line={"color": quiet, "width": 1, "dash": "dot"},
        annotation={
            "text": text,
            "font": {"color": quiet, "size": 11},
            "xanchor": "right",
            "yanchor": "bottom",
        },
        annotation_position="top right",
    )
