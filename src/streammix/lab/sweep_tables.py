"""A sweep's results, one row a precision and recipe: mean and spread over seeds, for a terminal and in Markdown."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from streammix.lab.config import RESIDUAL


def aggregate(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a precision and recipe, over the seeds that ended: mean, and standard deviation of two or more.

    "over_residual" is the loss less the plain residual model's of the same seed, which starts from the same weights and
    sees the same text: far less noisy than the loss itself. None where a seed lacks that model, and in its own row.
    "below_bigram" is whether every seed is; None where the baseline is not known.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in result["runs"]:
        groups.setdefault((run["precision"], run["recipe"]), []).append(run)
    baseline = {(run["precision"], run["seed"]): run["val_loss"] for run in result["runs"] if run["recipe"] == RESIDUAL}
    rows = []
    for (precision, recipe), runs in groups.items():
        losses = [run["val_loss"] for run in runs]
        places = [(precision, run["seed"]) for run in runs]
        paired = recipe != RESIDUAL and all(place in baseline for place in places)
        bigram = result["bigram_val_loss"].get(precision)
        over = [loss - baseline[place] for loss, place in zip(losses, places) if place in baseline]
        rows.append(
            {
                "precision": precision,
                "recipe": recipe,
                "seeds": len(runs),
                "streams": runs[0]["streams"],
                "connection_parameters": runs[0]["connection_parameters"],
                "val_loss": statistics.fmean(losses),
                "val_loss_spread": spread(losses),
                "over_residual": statistics.fmean(over) if paired else None,
                "over_residual_spread": spread(over) if paired else None,
                "grad_norm_median": statistics.median(run["grad_norm_median"] for run in runs),
                "grad_norm_max": max(run["grad_norm_max"] for run in runs),
                "tokens_per_s": statistics.median(run["tokens_per_s"] for run in runs),
                "below_bigram": None if bigram is None else max(losses) < bigram,
            }
        )
    return rows


def spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


HEADINGS = (
    *("recipe", "streams", "own parameters", "seeds", "val loss", "over residual", "below bigram"),
    *("grad norm median", "grad norm max", "tokens/s"),
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row under HEADINGS."""
    return [
        row["recipe"],
        str(row["streams"]),
        f"{row['connection_parameters']:,}",
        str(row["seeds"]),
        with_spread(row["val_loss"], row["val_loss_spread"], ".4f"),
        with_spread(row["over_residual"], row["over_residual_spread"], "+.4f"),
        "yes" if row["below_bigram"] else "no",
        f"{row['grad_norm_median']:.3f}",
        f"{row['grad_norm_max']:.3f}",
        f"{row['tokens_per_s']:,.0f}",
    ]


def with_spread(mean: float | None, deviation: float | None, style: str) -> str:
    if mean is None:
        return ""
    return f"{mean:{style}}" + (f" ± {deviation:.4f}" if deviation is not None else "")


def title(result: Mapping[str, Any], precision: str) -> str:
    baseline = result["bigram_val_loss"][precision]
    return f"{precision}: validation loss in nats a byte, mean ± standard deviation over seeds; bigram {baseline:.4f}"


def table(result: Mapping[str, Any], precision: str) -> Table:
    """One precision's rows for a terminal."""
    shown = Table(title=title(result, precision), title_justify="left")
    for heading in HEADINGS:
        narrow = "\n".join(heading.rsplit(" ", 1))
        shown.add_column(narrow, justify="left" if heading == HEADINGS[0] else "right", no_wrap=True)
    for row in result["rows"]:
        if row["precision"] == precision:
            shown.add_row(*cells(row))
    return shown


def markdown(result: Mapping[str, Any]) -> str:
    """All rows for a page."""
    lines = []
    for precision in result["bigram_val_loss"]:
        lines += [
            title(result, precision),
            "",
            f"| {' | '.join(HEADINGS)} |",
            "|---" + "|--:" * (len(HEADINGS) - 1) + "|",
        ]
        lines += [f"| {' | '.join(cells(row))} |" for row in result["rows"] if row["precision"] == precision]
        lines.append("")
    return "\n".join(lines)


def print_tables(result: Mapping[str, Any]) -> None:
    for precision in result["bigram_val_loss"]:
        made = table(result, precision)
        # Where there is no terminal to fit into, as wide as every column needs.
        width = None if sys.stdout.isatty() else Console(width=1000).measure(made).maximum
        Console(width=width).print(made)
