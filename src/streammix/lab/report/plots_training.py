"""The plots over training steps: one function a plot, from a comparison to a figure."""

import math
import statistics
from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from streammix.lab.config import RESIDUAL
from streammix.lab.report.comparison import Comparison, Run
from streammix.lab.report.style import Palette, blank, reference

STEP, NATS = "step", "nats per byte"
POINTS = 400  # a curve has no more, to keep the page light

Points = Sequence[tuple[int, float]]


def val_loss(comparison: Comparison, palette: Palette) -> go.Figure:
    """Validation loss by step, with the bigram baseline."""
    figure = blank(STEP, NATS)
    for run in comparison.runs:
        points = [(record["step"], record["loss"]) for record in run.val]
        add_curve(figure, palette, run.name, points, ":.4f", markers=True)
    if comparison.bigram is not None:
        reference(figure, comparison.bigram, f"bigram baseline {comparison.bigram:.3f}")
    figure.update_yaxes(range=loss_range(comparison, figure))
    return figure


def train_loss(comparison: Comparison, palette: Palette) -> go.Figure:
    """Training loss by step, as the mean over a twentieth of the run."""
    figure = blank(STEP, NATS)
    for run in comparison.runs:
        add_curve(figure, palette, run.name, smooth(run, "loss", statistics.fmean), ":.3f")
    figure.update_yaxes(range=loss_range(comparison, figure))
    return figure


def loss_difference(comparison: Comparison, palette: Palette) -> go.Figure | None:
    """Validation loss minus the plain residual's at the same step; None if there is nothing to subtract."""
    base = comparison.find(RESIDUAL)
    at = {record["step"]: record["loss"] for record in base.val} if base else {}
    figure = blank(STEP, f"{NATS}, relative to residual")
    late: list[float] = [0.0]
    for run in comparison.runs:
        points = [(r["step"], r["loss"] - at[r["step"]]) for r in run.val if r["step"] in at and r["step"] > 0]
        if run is not base and points:
            add_curve(figure, palette, run.name, points, ":+.4f", markers=True)
            late += [difference for step, difference in points if step >= max(at) / 4]
    if not figure.data:
        return None
    reference(figure, 0, "plain residual")
    pad = 0.12 * (max(late) - min(late)) or 0.01
    figure.update_yaxes(range=[min(late) - pad, max(late) + pad], tickformat=".3~f")
    return figure


def grad_norm(comparison: Comparison, palette: Palette) -> go.Figure:
    """Norm of the gradient before clipping, as the median over a twentieth of the run."""
    curves = {run.name: smooth(run, "grad_norm", statistics.median) for run in comparison.runs}
    seen = [value for points in curves.values() for _, value in points]
    log = bool(seen) and min(seen) > 0 and max(seen) / min(seen) > 4
    figure = blank(STEP, "gradient norm", log=log)
    for name, points in curves.items():
        add_curve(figure, palette, name, points, ":.3f")
    figure.update_yaxes(**({"dtick": "D2", "tickformat": "~g"} if log else {"rangemode": "tozero"}))
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


def smooth(run: Run, key: str, summary: Callable[[Sequence[float]], float]) -> Points:
    """(step, summary of the records within a fortieth of the run on either side), at most POINTS of them."""
    values = [record[key] for record in run.train]
    reach = max(1, (run.config.steps if run.config else len(values)) // 40)
    every = max(1, math.ceil(len(values) / POINTS))
    return [
        (run.train[i]["step"], summary(values[max(0, i - reach) : i + reach + 1])) for i in range(0, len(values), every)
    ]


def loss_range(comparison: Comparison, figure: go.Figure) -> list[float] | None:
    """From below the least loss drawn to above the baseline: the first steps' fall would flatten the rest."""
    drawn = [value for trace in figure.data for value in trace.y]
    if not drawn:
        return None
    low = min(drawn)
    high = 1.15 * max([*(trace.y[-1] for trace in figure.data), comparison.bigram or 0])
    return [low - 0.06 * (high - low), high]
