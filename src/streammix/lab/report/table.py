"""The report's headline: what came of each run in one table, and the result in a sentence."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from streammix.lab.config import RESIDUAL
from streammix.lab.report.comparison import Comparison, Run
from streammix.lab.report.style import Palette

ABSENT = "–"
TIE = 0.0005  # nats per byte; less cannot be seen in a plot
HEADINGS = (
    ("Recipe", ""),
    ("Validation loss", "nats per byte"),
    ("vs residual", "nats per byte"),
    ("Parameters", ""),
    ("Added", "by the recipe"),
    ("Gradient norm", "median"),
    ("Speed", "tokens/s"),
    ("Speed", "vs residual"),
    ("Peak memory", "MiB"),
)


@dataclass
class Row:
    """A recipe's cells, or a baseline's, which has no colour."""

    name: str
    cells: Sequence[str]
    colour: int | None = None
    """The recipe's place in the palette."""
    state: str = ""
    best: bool = False
    folder: str = ""


@dataclass
class Table:
    """Headings, each with its unit, and rows; the first heading is of the rows' names."""

    heads: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    folders: bool = False
    """Whether the last column is the rows' folders."""


def verdict(comparison: Comparison) -> str:
    """The finished runs' outcome in a sentence or two, as text."""
    done = [run for run in comparison.runs if run.summary and run.val_loss is not None]
    if not done:
        return "No run is finished yet."
    losses = {run.name: run.val_loss for run in done if run.val_loss is not None}
    best = min(losses, key=losses.__getitem__)
    said = f"Lowest validation loss: {best}, {losses[best]:.4f} nats per byte"
    if RESIDUAL in losses and best != RESIDUAL:
        said += f", {losses[RESIDUAL] - losses[best]:.4f} below the plain residual's"
    said += "."
    if comparison.bigram is not None:
        losers = [name for name, loss in losses.items() if not loss < comparison.bigram]
        if losers:
            said += f" Not below the bigram baseline: {', '.join(losers)}."
        else:
            every = {1: "It is", 2: "Both are"}.get(len(losses), f"All {len(losses)} are")
            said += f" {every} below the bigram baseline, {comparison.bigram:.4f}."
    for alike in ties(losses):
        said += f" {', '.join(alike[:-1])} and {alike[-1]} end within {TIE:g} nats of each other: their curves overlap."
    if len(losses) > 1:
        said += " Each ran once, so small differences may be chance."
    return said


def ties(losses: dict[str, float]) -> list[list[str]]:
    """Groups of two or more runs whose losses lie within TIE of the group's lowest, best group first."""
    groups: list[list[str]] = []
    for name in sorted(losses, key=losses.__getitem__):
        if groups and losses[name] - losses[groups[-1][0]] <= TIE:
            groups[-1].append(name)
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def headline(comparison: Comparison, palette: Palette) -> Table:
    """The table; what a run did not measure is a dash."""
    losses = [run.val_loss for run in comparison.runs if run.summary and run.val_loss is not None]
    base = comparison.find(RESIDUAL)
    rows = [row(run, base, palette, best=bool(losses) and run.val_loss == min(losses)) for run in comparison.runs]
    if comparison.bigram is not None:
        rows.append(Row("bigram baseline", [f"{comparison.bigram:.4f}", ABSENT, f"{256 * 256:,}", *[ABSENT] * 5]))
    return Table(HEADINGS, rows)


def row(run: Run, base: Run | None, palette: Palette, *, best: bool) -> Row:
    loss, base_loss = run.val_loss, base.val_loss if base else None
    comparable = run is not base and base is not None and run.step == base.step
    speed, base_speed = tokens_per_s(run), tokens_per_s(base) if base else None
    parameters, added = run.summary.get("parameters"), run.summary.get("connection_parameters")
    memory = run.summary.get("peak_memory_bytes")
    cells = [
        f"{loss:.4f}" if loss is not None else ABSENT,
        f"{loss - base_loss:+.4f}" if comparable and loss is not None and base_loss is not None else ABSENT,
        f"{parameters:,}" if parameters is not None else ABSENT,
        f"{added:,}" if added is not None else ABSENT,
        f"{grad_norm:.3f}" if (grad_norm := median_grad_norm(run)) is not None else ABSENT,
        f"{speed:,.0f}" if speed is not None else ABSENT,
        f"{speed / base_speed:.2f}×" if speed is not None and base_speed else ABSENT,
        f"{memory / 2**20:,.0f}" if memory else ABSENT,
    ]
    return Row(run.name, [minus(cell) for cell in cells], palette.index(run.name), run.state, best)


def minus(text: str) -> str:
    """With a sign for minus that is as wide as plus."""
    return text.replace("-", "−")


def median_grad_norm(run: Run) -> float | None:
    norms = [record["grad_norm"] for record in run.train]
    return statistics.median(norms) if norms else run.summary.get("grad_norm_median")


def tokens_per_s(run: Run) -> float | None:
    """The median step's, as in the summary; of a run that has not ended, over the steps so far."""
    if "tokens_per_s" in run.summary:
        return float(run.summary["tokens_per_s"])
    rates = [record["tokens_per_s"] for record in run.train if "tokens_per_s" in record]
    return statistics.median(rates) if rates else None
