"""Train every recipe with several seeds, in one precision or two, and put mean and spread of the results in tables."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from streammix.lab.compare import compare
from streammix.lab.config import RESIDUAL, Config, choices
from streammix.lab.errors import LabError
from streammix.lab.files import replace_file, write_json

NAME, PAGE = "sweep.json", "sweep.md"
PRECISIONS = ("float32", "bf16")


def sweep(
    settings: Mapping[str, Any],
    names: Sequence[str],
    seeds: Sequence[str],
    precisions: Sequence[str],
    out: Path,
    *,
    fresh: bool = False,
) -> dict[str, Any]:
    """Compare `names` for each precision and seed in OUT/PRECISION/seed-SEED, and return what OUT/sweep.json holds;
    OUT/sweep.md has its tables.

    Args:
        settings: of every run, as Config takes them.
        names: recipes; "all" stands for every one.
        seeds: integers, as text.
        precisions: "float32", "bf16".
        out: a folder.
        fresh: delete these runs and train again.

    Returns:
        {"runs": [each run's summary, its "seed" and "precision"], "rows": [aggregate(...)],
        "failed": {"precision/seed/recipe": why}, "bigram_val_loss": {precision: nats a byte}}

    Raises:
        LabError: settings that are no Config; a folder that holds something else.
        KeyboardInterrupt: Ctrl-C; the run under way has written a checkpoint.
    """
    numbers = [as_seed(seed) for seed in dict.fromkeys(seeds)]
    for precision in precisions:
        if precision not in PRECISIONS:
            raise LabError(f"--precisions has {precision!r}; accepted: {', '.join(PRECISIONS)}")
    chosen = choices() if "all" in names else tuple(dict.fromkeys(names))
    for name in chosen:
        Config(**settings, recipe=name)  # every name is checked before any work
    result: dict[str, Any] = {"runs": [], "failed": {}, "bigram_val_loss": {}}
    for precision in dict.fromkeys(precisions):
        for seed in numbers:
            config = Config(**settings, seed=seed, bf16=precision == "bf16")
            one = compare(config, chosen, out / precision / f"seed-{seed}", fresh=fresh, keep_going=True)
            where = {"precision": precision, "seed": seed}
            result["runs"] += [where | summary for summary in one["runs"].values()]
            result["failed"] |= {f"{precision}/{seed}/{name}": why for name, why in one.get("failed", {}).items()}
            result["bigram_val_loss"][precision] = one["bigram_val_loss"]
            result["rows"] = aggregate(result)
            write_json(out / NAME, result)
            replace_file(out / PAGE, markdown(result).encode())
    return result


def as_seed(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise LabError(f"--seeds has {word!r}; accepted: integers") from None


def aggregate(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a precision and recipe, over the seeds that ended: mean, and standard deviation of two or more.

    "over_residual" is the loss less the plain residual model's of the same seed, which starts from the same weights and
    sees the same text: far less noisy than the loss itself. None where a seed lacks that model, and in its own row.
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
                "below_bigram": max(losses) < result["bigram_val_loss"][precision],
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
