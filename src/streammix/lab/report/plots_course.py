"""The plots of what diagnostics logged while training: by step in a band over seeds, and by depth with a slider."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go
import torch
from torch import Tensor

from streammix.diagnostics import Summary
from streammix.lab.report.course import Course, Diagnoses, numbers
from streammix.lab.report.plots_seeds import drawn, over_seeds
from streammix.lab.report.plots_sites import SITE
from streammix.lab.report.style import Palette, blank, reference


class Measured(NamedTuple):
    """What a plot shows of summaries."""

    title: str
    sentence: str
    measure: Callable[[Summary], Tensor]
    """-> one number, or one a site."""
    axis: str
    form: str
    ideal: float | None = None


BY_STEP = (
    Measured(
        "Forward gain",
        "Largest row sum of the product of all mixing matrices: how much a signal may grow on its way through.",
        lambda s: s.gains.forward[-1],
        "gain of all sites",
        ":.4g",
        1,
    ),
    Measured(
        "Backward gain",
        "Largest column sum of that product: how much a gradient may grow on its way back.",
        lambda s: s.gains.backward[0],
        "gain of all sites",
        ":.4g",
        1,
    ),
    Measured(
        "Survival of differences",
        "How much of what distinguishes the streams outlives the mixing of all sites: 1 keeps it, 0 averages it away.",
        lambda s: s.gains.complement[-1],
        "‖P − J‖₂",
        ":.4f",
    ),
    Measured(
        "Distance of the mixing from none",
        "‖H − I‖ (Frobenius), averaged over sites: 0 leaves every stream alone.",
        lambda s: s.measures["identity_drift"].mean(),
        "‖H − I‖",
        ":.3g",
    ),
    Measured(
        "Effective rank",
        "Over how many directions the singular values of all sites' product spread: n is the most.",
        lambda s: s.rank[-1],
        "effective rank",
        ":.3f",
    ),
    Measured(
        "Streams read",
        "How many streams a site's input effectively draws on, averaged over sites.",
        lambda s: s.measures["effective_read"].mean(),
        "streams read",
        ":.2f",
    ),
    Measured(
        "Streams written",
        "How many streams a site's output effectively goes to, averaged over sites.",
        lambda s: s.measures["effective_write"].mean(),
        "streams written",
        ":.2f",
    ),
    Measured(
        "Likeness of the streams",
        "Mean cosine between two streams, averaged over sites: 1 is copies, lower is more diverse.",
        lambda s: s.measures["stream_cosine"].mean(),
        "mean cosine",
        ":.4f",
    ),
)
#: At the step that the slider says.
BY_DEPTH = (
    Measured(
        "Forward gain by depth",
        "Largest row sum of the mixing matrices' product up to site l.",
        lambda s: s.gains.forward,
        "gain of sites 1 to l",
        ":.4g",
        1,
    ),
    Measured(
        "Backward gain by depth",
        "Largest column sum of the product from site l on.",
        lambda s: s.gains.backward,
        "gain of sites l to the last",
        ":.4g",
        1,
    ),
    Measured(
        "Survival of differences by depth",
        "How much of what distinguishes the streams outlives the mixing up to site l.",
        lambda s: s.gains.complement,
        "‖P − J‖₂ of sites 1 to l",
        ":.4f",
    ),
    Measured(
        "Streams read by depth",
        "How many streams a site's input effectively draws on.",
        lambda s: s.measures["effective_read"],
        "streams read",
        ":.2f",
    ),
)


def by_step(seeds: Mapping[str, Sequence[Diagnoses]], palette: Palette, what: Measured) -> go.Figure:
    """A measure by step, for each name the mean over its runs in a band."""
    bands = {}
    for name, several in seeds.items():
        curves = [[(step, float(what.measure(summary))) for step, summary in sorted(one.items())] for one in several]
        bands[name] = over_seeds([[(step, y) for step, y in curve if math.isfinite(y)] for curve in curves])
    figure = drawn(bands, palette, what.axis, what.form, markers=True)
    seen = [value for band in bands.values() for value in (*band.low, *band.high)]
    fit(figure, seen, what.ideal)
    return figure


def by_depth(made: Course, palette: Palette, what: Measured) -> go.Figure:
    """A measure by site at the last step; `meta.frames` of a line holds it at every step of the slider."""
    figure = blank(SITE, what.axis)
    seen = []
    for name, summaries in made.at.items():
        frames = [numbers(what.measure(summary)) for summary in summaries]
        seen += [value for frame in frames for value in frame if value is not None]
        figure.add_scatter(
            x=list(range(1, len(frames[-1]) + 1)),
            y=frames[-1],
            mode="lines+markers",
            line=palette.line(name),
            marker=palette.marker(name, 11),
            name=name,
            legendgroup=name,
            meta={"frames": frames},
            hovertemplate=f"{name} %{{y{what.form}}}<extra></extra>",
        )
    fit(figure, seen, what.ideal)
    figure.update_xaxes(dtick=max(1, max(len(trace.x) for trace in figure.data) // 12))
    return figure


def fit(figure: go.Figure, seen: Sequence[float], ideal: float | None) -> None:
    """The y axis around all that was seen, and around what is ideal: rounding must not fill the plot."""
    if not seen:
        return
    if ideal is not None and min(seen) > 0 and max(seen) / min(seen) > 10:
        figure.update_yaxes(type="log", dtick=1, exponentformat="power", minor={"showgrid": False})
        return
    around = [*seen, 0.95 * ideal, 1.05 * ideal] if ideal is not None else seen
    low, high = min(around), max(around)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    figure.update_yaxes(range=[low - pad, high + pad])


def spectra(made: Course, palette: Palette) -> go.Figure:
    """Singular values of all sites' product at the last step: measured, and dotted as free probability has them."""
    figure = blank("singular value, by size", "singular value of all sites' product", log=True)
    seen = []
    for name, summaries in made.at.items():
        last = summaries[-1]
        for values, predicted in ((last.composite[-1], False), (prediction(last), True)):
            drawn_ = [value if value is not None and value > 0 else None for value in numbers(values)]
            seen += [value for value in drawn_ if value is not None]
            said = f"{name}, predicted" if predicted else name
            figure.add_scatter(
                x=list(range(1, len(drawn_) + 1)),
                y=drawn_,
                mode="lines+markers",
                line=palette.line(name) | ({"dash": "dot", "width": 1.5} if predicted else {}),
                marker=palette.marker(name, 11) | ({"opacity": 0.5} if predicted else {}),
                name=said,
                legendgroup=name,
                hovertemplate=f"{said} %{{y:.3g}}<extra></extra>",
            )
    figure.update_xaxes(dtick=1)
    if seen:
        low, high = math.log10(min(seen)), math.log10(max(seen))
        pad = max(0.02, 0.08 * (high - low))
        figure.update_yaxes(range=[low - pad, high + pad])
        if high - low < 1:
            figure.update_yaxes(dtick=None, nticks=6, exponentformat="none")
    return figure


def prediction(summary: Summary) -> Tensor:
    """What free probability has to say; NaN where it cannot be computed, so that its line is not drawn."""
    try:
        return summary.predicted()
    except ArithmeticError:
        return torch.full_like(summary.composite[-1], torch.nan)


def learning_rates(
    families: Mapping[str, Sequence[tuple[float, Sequence[float]]]], palette: Palette, bigram: float | None
) -> go.Figure:
    """Final validation loss by learning rate; the bars go from the lowest seed to the highest."""
    figure = blank("learning rate", "nats per byte", log=False)
    for name, points in families.items():
        lrs = [lr for lr, _ in points]
        means = [sum(losses) / len(losses) for _, losses in points]
        figure.add_scatter(
            x=lrs,
            y=means,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [max(losses) - mean for mean, (_, losses) in zip(means, points)],
                "arrayminus": [mean - min(losses) for mean, (_, losses) in zip(means, points)],
                "thickness": 1,
                "width": 3,
            },
            text=[f"{min(losses):.4f} to {max(losses):.4f}, {len(losses)} seeds" for _, losses in points],
            mode="lines+markers",
            line=palette.line(name),
            marker=palette.marker(name, 9),
            name=name,
            legendgroup=name,
            hovertemplate=f"{name} %{{y:.4f}} (%{{text}})<extra></extra>",
        )
    known = sorted({lr for points in families.values() for lr, _ in points})
    figure.update_xaxes(type="log", tickvals=known, ticktext=[f"{lr:g}" for lr in known])
    figure.update_xaxes(unifiedhovertitle={"text": "learning rate %{x:g}"})
    if bigram is not None:
        reference(figure, bigram, f"bigram baseline {bigram:.3f}")
    return figure
