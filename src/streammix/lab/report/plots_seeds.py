"""A sweep's plots over training steps: each recipe's mean over seeds in a band from the lowest seed to the highest."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from streammix.lab.config import RESIDUAL
from streammix.lab.report.comparison import Comparison, Run
from streammix.lab.report.plots_training import (
    NATS,
    STEP,
    Points,
    difference_range,
    loss_range,
    norm_axis,
    planned,
    relative,
    smooth,
)
from streammix.lab.report.style import Palette, blank, reference

BySeed = Mapping[int, Comparison]


@dataclass
class Band:
    """What the seeds that reached a step have there."""

    steps: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    seeds: list[int]
    """How many they are."""


def over_seeds(curves: Sequence[Points]) -> Band:
    """Mean, least and greatest value at every step that any of the curves has."""
    at: dict[int, list[float]] = {}
    for points in curves:
        for step, value in points:
            at.setdefault(step, []).append(value)
    steps = sorted(at)
    values = [at[step] for step in steps]
    return Band(
        steps,
        [statistics.fmean(one) for one in values],
        [min(one) for one in values],
        [max(one) for one in values],
        [len(one) for one in values],
    )


def val_loss(seeds: BySeed, palette: Palette, bigram: float | None) -> go.Figure:
    """Validation loss by step, with the bigram baseline."""
    bands = {
        name: over_seeds([[(record["step"], record["loss"]) for record in run.val] for run in runs])
        for name, runs in by_recipe(seeds)
    }
    figure = drawn(bands, palette, NATS, ":.4f", markers=True)
    if bigram is not None:
        reference(figure, bigram, f"bigram baseline {bigram:.3f}")
    figure.update_yaxes(range=loss_range(figure, bigram))
    return figure


def train_loss(seeds: BySeed, palette: Palette, bigram: float | None) -> go.Figure:
    """Training loss by step; each run's is the mean over a twentieth of the run."""
    steps = longest(seeds)
    bands = {
        name: over_seeds([smooth(run, "loss", statistics.fmean, steps) for run in runs])
        for name, runs in by_recipe(seeds)
    }
    figure = drawn(bands, palette, NATS, ":.3f")
    figure.update_yaxes(range=loss_range(figure, bigram))
    return figure


def loss_difference(seeds: BySeed, palette: Palette) -> go.Figure | None:
    """Validation loss minus the plain residual's of the same seed and step; None if there is nothing to subtract."""
    curves: dict[str, list[Points]] = {}
    for one in seeds.values():
        base = one.find(RESIDUAL)
        for run in one.runs:
            if base and run is not base:
                curves.setdefault(run.name, []).append(relative(run, base))
    bands = {name: over_seeds(several) for name, several in curves.items()}
    figure = drawn(bands, palette, f"{NATS}, relative to residual", ":+.4f", markers=True)
    if not figure.data:
        return None
    reference(figure, 0, "plain residual")
    figure.update_yaxes(range=difference_range(figure), tickformat=".3~f")
    return figure


def grad_norm(seeds: BySeed, palette: Palette) -> go.Figure:
    """Norm of the gradient before clipping; each run's is the median over a twentieth of the run."""
    steps = longest(seeds)
    bands = {
        name: over_seeds([smooth(run, "grad_norm", statistics.median, steps) for run in runs])
        for name, runs in by_recipe(seeds)
    }
    figure = drawn(bands, palette, "gradient norm", ":.3f")
    figure.update_yaxes(norm_axis([value for band in bands.values() for value in (*band.low, *band.high)]))
    return figure


def by_recipe(seeds: BySeed) -> Iterator[tuple[str, list[Run]]]:
    """Each recipe with its runs, one a seed."""
    runs: dict[str, list[Run]] = {}
    for one in seeds.values():
        for run in one.runs:
            runs.setdefault(run.name, []).append(run)
    return iter(runs.items())


def longest(seeds: BySeed) -> int:
    return max((planned(run) for one in seeds.values() for run in one.runs), default=0)


def drawn(bands: Mapping[str, Band], palette: Palette, title: str, form: str, *, markers: bool = False) -> go.Figure:
    """All bands below all lines, so that none hides a line; nothing of a recipe that has no points."""
    figure = blank(STEP, title)
    several = {name: band for name, band in bands.items() if band.steps}
    for name, band in several.items():
        if max(band.seeds) > 1:
            add_band(figure, palette, name, band)
    for name, band in several.items():
        add_mean(figure, palette, name, band, form, markers=markers)
    return figure


def add_band(figure: go.Figure, palette: Palette, name: str, band: Band) -> None:
    """Two lines without ink and the area between them."""
    look: dict[str, Any] = {"mode": "lines", "line": {"width": 0, "color": palette.colour(name)}, "hoverinfo": "skip"}
    look |= {"legendgroup": name, "x": band.steps}
    figure.add_scatter(y=band.low, name=f"{name}, lowest seed", **look)
    figure.add_scatter(y=band.high, name=f"{name}, highest seed", fill="tonexty", fillcolor=palette.shade(name), **look)


def add_mean(figure: go.Figure, palette: Palette, name: str, band: Band, form: str, *, markers: bool) -> None:
    style = form.removeprefix(":")
    around = [
        f"{low:{style}} to {high:{style}}, {seeds} seeds" if seeds > 1 else "1 seed"
        for low, high, seeds in zip(band.low, band.high, band.seeds)
    ]
    figure.add_scatter(
        x=band.steps,
        y=band.mean,
        text=around,
        mode="lines+markers" if markers else "lines",
        line=palette.line(name),
        marker=palette.marker(name, 8),
        name=f"{name}, mean",
        legendgroup=name,
        hovertemplate=f"{name} %{{y{form}}} (%{{text}})<extra></extra>",
    )
