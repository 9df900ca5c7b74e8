"""The plots over depth: what trained models' maps do, site by site. One function a plot."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from streammix.lab.maps import Maps
from streammix.lab.report.style import Palette, blank

SITE = "site l"
EXACT = 1e-9  # where a log axis shows an exact zero

ByConnection = Mapping[str, Maps]


def forward_gain(maps: ByConnection, palette: Palette) -> go.Figure:
    """Composite gain of the sites up to each one; dotted, where signs cancel, the induced norm."""
    return gains(maps, palette, "forward", "gain of sites 1 to l")


def backward_gain(maps: ByConnection, palette: Palette) -> go.Figure:
    """Composite gain of the sites from each one on; dotted, where signs cancel, the induced norm."""
    return gains(maps, palette, "backward", "gain of sites l to the last")


def gains(maps: ByConnection, palette: Palette, direction: str, title: str) -> go.Figure:
    lines: list[tuple[str, list[float], bool]] = []
    for name, one in maps.items():
        gain = getattr(one.gains, direction).tolist()
        norm = getattr(one.gains, f"{direction}_norm").tolist()
        lines.append((name, gain, False))
        if any(abs(a - b) > 0.01 * b for a, b in zip(gain, norm)):
            lines.append((name, norm, True))
    seen = [value for _, values, _ in lines for value in values if math.isfinite(value)]
    log = bool(seen) and min(seen) > 0 and max(seen) / min(seen) > 10
    figure = blank(SITE, title, log=log)
    for name, values, unsigned in lines:
        add_sites(figure, palette, name, maps[name], values, ":.4g", unsigned=unsigned)
    if seen and not log:  # gains that differ from one by rounding only must not fill the plot
        low, high = min([*seen, 0.95]), max([*seen, 1.05])
        figure.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
    return figure


def complement_gain(maps: ByConnection, palette: Palette) -> go.Figure:
    """What is left, after the sites up to each one, of the differences between streams."""
    figure = blank(SITE, "‖P − J‖₂ of sites 1 to l")
    for name, one in maps.items():
        add_sites(figure, palette, name, one, one.gains.complement.tolist(), ":.4f")
    top = max((one.gains.complement.max().item() for one in maps.values()), default=1.0)
    figure.update_yaxes(range=[-0.03, 1.06 * max(1.0, top)] if math.isfinite(top) else None)
    return figure


def marginal_error(maps: ByConnection, palette: Palette) -> go.Figure:
    """Marginal error of the mixing matrices: mean over tokens as a line, the worst token as a dash."""
    figure = blank(SITE, "marginal error", log=True)
    top = EXACT
    for name, one in maps.items():
        mean = [site.measures["marginal_error"] for site in one.sites]
        worst = [site.measures["marginal_error_max"] for site in one.sites]
        top = max([top, *(value for value in worst if math.isfinite(value))])
        text = [f"{a:.2g}, worst token {b:.2g}" if b else "exactly 0" for a, b in zip(mean, worst)]
        add_sites(figure, palette, name, one, [max(value, EXACT) for value in mean], text=text)
        figure.add_scatter(
            x=numbers(one),
            y=[max(value, EXACT) for value in worst],
            mode="markers",
            marker={"symbol": "line-ew-open", "size": 12, "color": palette.colour(name)},
            legendgroup=name,
            hoverinfo="skip",
        )
    powers = range(round(math.log10(EXACT)), math.ceil(math.log10(top)) + 1)
    figure.update_yaxes(
        range=[powers[0] - 0.4, powers[-1] + 0.4],
        tickvals=[10.0**power for power in powers],
        ticktext=["0", *(f"10<sup>{power}</sup>" for power in powers[1:])],
    )
    return figure


def streams_read(maps: ByConnection, palette: Palette) -> go.Figure:
    """Effective number of streams each site reads."""
    return usage(maps, palette, "effective_read", "streams read")


def streams_written(maps: ByConnection, palette: Palette) -> go.Figure:
    """Effective number of streams each site writes."""
    return usage(maps, palette, "effective_write", "streams written")


def usage(maps: ByConnection, palette: Palette, measure: str, title: str) -> go.Figure:
    figure = blank(SITE, title)
    for name, one in maps.items():
        add_sites(figure, palette, name, one, [site.measures[measure] for site in one.sites], ":.2f")
    most = max((one.streams for one in maps.values()), default=1)
    figure.update_yaxes(range=[0.8, most + 0.2], dtick=max(1, most // 8))
    return figure


def stream_cosine(maps: ByConnection, palette: Palette) -> go.Figure:
    """Cosine between streams after each site."""
    figure = blank(SITE, "mean cosine of two streams")
    least = 0.9
    for name, one in maps.items():
        values = [site.measures["stream_cosine"] for site in one.sites]
        least = min([least, *(value for value in values if math.isfinite(value))])
        add_sites(figure, palette, name, one, values, ":.4f")
    figure.update_yaxes(range=[least - 0.05 * (1 - least), 1 + 0.05 * (1 - least)])
    return figure


def numbers(maps: Maps) -> list[int]:
    """Sites are counted from one."""
    return list(range(1, len(maps.sites) + 1))


def add_sites(
    figure: go.Figure,
    palette: Palette,
    recipe: str,
    maps: Maps,
    values: Sequence[float],
    form: str = "",
    *,
    text: Sequence[str] | None = None,
    unsigned: bool = False,
) -> None:
    """A line with one value a site; `unsigned` marks a gain whose signs are ignored."""
    name = f"{recipe}, signs ignored" if unsigned else recipe
    shown = "%{text}" if text else f"%{{y{form}}}"
    figure.add_scatter(
        x=numbers(maps),
        y=list(values),
        mode="lines+markers",
        line=palette.line(recipe) | ({"dash": "dot", "width": 1.5} if unsigned else {}),
        marker=palette.marker(recipe, 11) | ({"opacity": 0.5} if unsigned else {}),
        text=text,
        name=name,
        legendgroup=recipe,
        hovertemplate=f"{name} {shown}<extra></extra>",
    )
    first = ", ".join(site.label for site in maps.sites[:3]) + ", …" * (len(maps.sites) > 3)
    figure.update_xaxes(title={"text": f"site l ({first})"}, dtick=max(1, len(maps.sites) // 12))
