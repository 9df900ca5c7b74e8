"""What came of a sweep: for each precision a sentence and a table of means and spreads, and a table of all runs."""

from collections.abc import Mapping
from typing import Any

from streammix.lab.config import RESIDUAL
from streammix.lab.report.comparison import Comparison, Run
from streammix.lab.report.style import Palette
from streammix.lab.report.sweep_folder import Sweep
from streammix.lab.report.table import ABSENT, Row, Table, minus
from streammix.lab.sweep_tables import aggregate, with_spread

HEADINGS = (
    ("Recipe", ""),
    ("Validation loss", "nats per byte"),
    ("vs residual", "of the same seed"),
    ("Below residual", "seeds"),
    ("Ended", "seeds"),
    ("Streams", ""),
    ("Added", "by the recipe"),
    ("Gradient norm", "median"),
    ("Gradient norm", "largest"),
    ("Speed", "tokens/s"),
)
RUN_HEADINGS = (
    ("Recipe", ""),
    ("Precision", ""),
    ("Seed", ""),
    ("Validation loss", "nats per byte"),
    ("vs residual", "nats per byte"),
)


def rows(sweep: Sweep, precision: str) -> dict[str, dict[str, Any]]:
    """Each recipe's mean and spread over the seeds that ended; a recipe of which none did is not there."""
    ended = [
        run.summary | {"recipe": run.name, "precision": precision, "seed": seed}
        for seed, one in sweep.of(precision).items()
        for run in one.runs
        if run.summary
    ]
    result = {"runs": ended, "bigram_val_loss": {precision: sweep.bigram(precision)}}
    return {row["recipe"]: row for row in aggregate(result)}


def verdict(sweep: Sweep, precision: str) -> str:
    """One precision's outcome in a sentence, as text; recipes with fewer seeds than others do not compete."""
    found = rows(sweep, precision)
    if not found:
        return f"{precision}: no run is finished yet."
    most = max(row["seeds"] for row in found.values())
    best = min((row for row in found.values() if row["seeds"] == most), key=lambda row: float(row["val_loss"]))
    loss = with_spread(best["val_loss"], best["val_loss_spread"], ".4f")
    said = f"{precision}: {best['recipe']} has the lowest validation loss, {loss} nats per byte over {plural(most)}"
    over = best["over_residual"]
    if over is not None:
        distance = with_spread(abs(over), best["over_residual_spread"], ".4f")
        said += f", {distance} {'below' if over < 0 else 'above'} the plain residual's"
    return f"{said}."


def plural(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def counts(sweep: Sweep, precision: str) -> str:
    """How many recipes end below the plain residual, and which not below the bigram baseline, as text."""
    found = rows(sweep, precision)
    said = "Mean ± standard deviation over the seeds that ended; vs residual: of the differences, seed by seed."
    if not found:
        return ""
    if all(row["seeds"] == 1 for row in found.values()):
        said = "Each recipe ended with one seed at most, so small differences may be chance."
    tallies = [tally for name in found if name != RESIDUAL and (tally := wins(sweep, precision, name))[1]]
    if tallies:
        always = sum(won == of for won, of in tallies)
        never = sum(not won for won, _ in tallies)
        said += f" Of {len(tallies)} recipes, {always} end below the plain residual with every seed, {never} with none."
    if losers := [name for name, row in found.items() if row["below_bigram"] is False]:
        said += f" Not below the bigram baseline with every seed: {', '.join(losers)}."
    return said


def wins(sweep: Sweep, precision: str, recipe: str) -> tuple[int, int]:
    """With how many seeds a recipe ends below the plain residual, and how many ended in both."""
    over = [difference(one, run) for one in sweep.of(precision).values() if (run := one.find(recipe)) and run.summary]
    known = [value for value in over if value is not None]
    return sum(value < 0 for value in known), len(known)


def difference(comparison: Comparison, run: Run) -> float | None:
    """A run's loss less that of the plain residual beside it, at the same step."""
    base = comparison.find(RESIDUAL)
    if base is None or run is base or run.step != base.step or run.val_loss is None or base.val_loss is None:
        return None
    return run.val_loss - base.val_loss


def headline(sweep: Sweep, precision: str, palette: Palette) -> Table:
    """A row a recipe; what is not known is a dash."""
    found = rows(sweep, precision)
    least = min((row["val_loss"] for row in found.values()), default=None)
    shown = []
    for name in sweep.recipes:
        row = found.get(name)
        ended = f"{row['seeds'] if row else 0} of {len(sweep.seeds)}"
        won, paired = wins(sweep, precision, name)
        cells = measured(row, f"{won} of {paired}" if paired else ABSENT, ended) if row else unmeasured(ended)
        best = row is not None and row["val_loss"] == least
        shown.append(Row(name, [minus(cell) for cell in cells], palette.index(name), "" if row else "not ended", best))
    if (bigram := sweep.bigram(precision)) is not None:
        shown.append(Row("bigram baseline", [f"{bigram:.4f}", *[ABSENT] * (len(HEADINGS) - 2)]))
    return Table(HEADINGS, shown)


def measured(row: Mapping[str, Any], won: str, ended: str) -> list[str]:
    """The cells of a recipe under HEADINGS, after its name."""
    return [
        with_spread(row["val_loss"], row["val_loss_spread"], ".4f"),
        with_spread(row["over_residual"], row["over_residual_spread"], "+.4f") or ABSENT,
        won,
        ended,
        str(row["streams"]),
        f"{row['connection_parameters']:,}",
        f"{row['grad_norm_median']:.3f}",
        f"{row['grad_norm_max']:.3f}",
        f"{row['tokens_per_s']:,.0f}",
    ]


def unmeasured(ended: str) -> list[str]:
    """The cells of a recipe of which no seed ended."""
    return [ABSENT, ABSENT, ABSENT, ended, *[ABSENT] * (len(HEADINGS) - 5)]


def run_table(sweep: Sweep, palette: Palette) -> Table:
    """A row a run, with its folder."""
    shown = []
    for (precision, seed), one in sweep.comparisons.items():
        for run in one.runs:
            over = difference(one, run)
            loss = ABSENT if run.val_loss is None else f"{run.val_loss:.4f}"
            cells = [precision, minus(str(seed)), loss, ABSENT if over is None else minus(f"{over:+.4f}")]
            shown.append(Row(run.name, cells, palette.index(run.name), run.state, folder=str(run.folder)))
    return Table(RUN_HEADINGS, shown, folders=True)
