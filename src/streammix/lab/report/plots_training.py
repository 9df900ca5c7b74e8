"""The plots over training steps: one function a plot, from a comparison to a figure."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from streammix.lab.config import RESIDUAL
from streammix.lab.report.comparison import Comparison, Run
from streammix.lab.report.style import Palette, blank, reference

STEP, NATS = "step", "nats per byte"
POINTS = 100  # a curve has no more, to keep the page light; it is smoothed over a twentieth of the run

Points = Sequence[tuple[int, float]]


def val_loss(comparison: Comparison, palette: Palette) -> go.Figure:
    """Validation loss by step, with the bigram baseline."""
    figure = blank(STEP, NATS)
    for run in comparison.runs:
        points = [(record["step"], record["loss"]) for record in run.val]
        add_curve(figure, palette, run.name, points, ":.4f", markers=True)
    if comparison.bigram is not None:
        reference(figure, comparison.bigram, f"bigram baseline {comparison.bigram:.3f}")
    figure.update_yaxes(range=loss_range(figure, comparison.bigram))
    return figure


def train_loss(comparison: Comparison, palette: Palette) -> go.Figure:
    """Training loss by step, as the mean over a twentieth of the run."""
    figure = blank(STEP, NATS)
    for run in comparison.runs:
        add_curve(figure, palette, run.name, smooth(run, "loss", statistics.fmean), ":.3f")
    figure.update_yaxes(range=loss_range(figure, comparison.bigram))
    return figure


def loss_difference(comparison: Comparison, palette: Palette) -> go.Figure | None:
    """Validation loss minus the plain residual's at the same step; None if there is nothing to subtract."""
    base = comparison.find(RESIDUAL)
    figure = blank(STEP, f"{NATS}, relative to residual")
    for run in comparison.runs:
        if base and run is not base:
            add_curve(figure, palette, run.name, relative(run, base), ":+.4f", markers=True)
    if not figure.data:
        return None
    reference(figure, 0, "plain residual")
    figure.update_yaxes(range=difference_range(figure), tickformat=".3~f")
    return figure


def relative(run: Run, base: Run) -> Points:
    """Validation loss minus that of `base`, at each step where both measured it; at the start it says nothing."""
    at = {record["step"]: record["loss"] for record in base.val}
    return [(r["step"], r["loss"] - at[r["step"]]) for r in run.val if r["step"] in at and r["step"] > 0]


def grad_norm(comparison: Comparison, palette: Palette) -> go.Figure:
    """Norm of the gradient before clipping, as the median over a twentieth of the run."""
    curves = {run.name: smooth(run, "grad_norm", statistics.median) for run in comparison.runs}
    figure = blank(STEP, "gradient norm")
    for name, points in curves.items():
        add_curve(figure, palette, name, points, ":.3f")
    figure.update_yaxes(norm_axis([value for points in curves.values() for _, value in points]))
    return figure


def add_curve(
    figure: go.Figure, palette: Palette, name: str, points: Points, form: str, *, markers: bool = False
) -> None:
    """One recipe's line; nothing where it has no points."""
    if points:
        figure.add_scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            mode="lines+markers" if markers else "lines",
            line=palette.line(name),
            marker=palette.marker(name, 8),
            name=name,
            legendgroup=name,
            hovertemplate=f"{name} %{{y{form}}}<extra></extra>",
        )


def planned(run: Run) -> int:
    """How many steps a run was to take; where that is not known, how many it took."""
    return run.config.steps if run.config else len(run.train)


def smooth(run: Run, key: str, summary: Callable[[Sequence[float]], float], steps: int | None = None) -> Points:
    """(step, summary of the records within a fortieth of the run on either side), for at most POINTS of its steps.

    Which steps these are depends on their number alone, so that runs of as many `steps` have points at the same ones.
    """
    values = [record[key] for record in run.train]
    steps = steps or planned(run)
    reach, every = max(1, steps // 40), max(1, math.ceil(steps / POINTS))
    return [
        (record["step"], summary(values[max(0, i - reach) : i + reach + 1]))
        for i, record in enumerate(run.train)
        if record["step"] % every == 1 % every
    ]


def loss_range(figure: go.Figure, bigram: float | None) -> list[float] | None:
    """From below the least loss drawn to above the baseline: the first steps' fall would flatten the rest."""
    drawn = [value for trace in figure.data for value in trace.y]
    if not drawn:
        return None
    low = min(drawn)
    high = 1.15 * max([*(trace.y[-1] for trace in figure.data), bigram or 0])
    return [low - 0.06 * (high - low), high]


def difference_range(figure: go.Figure) -> list[float]:
    """Around zero and every difference from a quarter of the run on."""
    last = max(x for trace in figure.data for x in trace.x)
    late = [0.0, *(y for trace in figure.data for x, y in zip(trace.x, trace.y) if x >= last / 4)]
    pad = 0.12 * (max(late) - min(late)) or 0.01
    return [min(late) - pad, max(late) + pad]


def norm_axis(values: Sequence[float]) -> dict[str, Any]:
    """The axis of gradient norms: logarithmic where they differ by much."""
    log = bool(values) and min(values) > 0 and max(values) / min(values) > 4
    if not log:
        return {"rangemode": "tozero"}
    return {"type": "log", "dtick": "D2", "tickformat": "~g", "exponentformat": "power", "minor": {"showgrid": False}}
