"""An experiment's table for people, in Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any


def markdown(table: Mapping[str, Any]) -> str:
    """The tables of `tables.summarise` with what their figures mean."""
    return "\n".join([*heading(table), *results(table), *rates(table), *notes(table)]) + "\n"


def heading(table: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"# {table['title']}", "")
    if table["about"]:
        yield from (table["about"], "")
    diverged = f", {table['diverged']} of them diverged" if table["diverged"] else ""
    yield from (f"{table['ended']} of {table['runs']} runs have ended{diverged}.", "")


def results(table: Mapping[str, Any]) -> Iterator[str]:
    with_groups = any(row["group"] for row in table["rows"])
    headings = ["group"] * with_groups + ["arm", "parameters", "learning rate", "seeds", "validation loss"]
    headings += [f"minus {other}" for other in table["compared_with"]]
    yield from lines(headings, left=1 + with_groups, rows=[cells(table, row, with_groups) for row in table["rows"]])


def cells(table: Mapping[str, Any], row: Mapping[str, Any], with_groups: bool) -> list[str]:
    mark = {"lowest": " (lowest tried)", "highest": " (highest tried)", None: ""}[row["lr_at"]]
    spread = "" if row["val_loss_spread"] is None else f" ± {row['val_loss_spread']:.4f}"
    seeds = f"{len(row['seeds'])} of {len(table['seeds'])}"
    return [
        *([row["group"]] * with_groups),
        row["arm"],
        "" if row["parameters"] is None else f"{row['parameters']:,}",
        "" if row["lr"] is None else f"{row['lr']:g}{mark}",
        seeds + (f", {row['diverged']} diverged" if row["diverged"] else ""),
        "" if row["val_loss"] is None else f"{row['val_loss']:.4f}{spread}",
        *(difference(row["difference"].get(other)) for other in table["compared_with"]),
    ]


def difference(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    if one["low"] is None:
        return f"{one['mean']:+.4f}: can't tell (1 seed)"
    return f"{one['mean']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]: {one['verdict']}"


def rates(table: Mapping[str, Any]) -> Iterator[str]:
    """The mean loss at every learning rate, where several were tried."""
    tried = list(dict.fromkeys(rate for row in table["rows"] for rate in row["by_lr"]))
    if all(len(row["by_lr"]) == 1 for row in table["rows"]):
        return
    with_groups = any(row["group"] for row in table["rows"])
    tried.sort(key=float)
    yield from ("Mean validation loss by learning rate:", "")
    headings = ["group"] * with_groups + ["arm", *tried]
    made = [
        [*([row["group"]] * with_groups), row["arm"], *(at_rate(row["by_lr"].get(rate)) for rate in tried)]
        for row in table["rows"]
    ]
    yield from lines(headings, left=1 + with_groups, rows=made)


def at_rate(one: Mapping[str, Any] | None) -> str:
    if one is None or not one["seeds"]:
        return ""
    words = [] if one["val_loss"] is None else [f"{one['val_loss']:.4f}"]
    return ", ".join(words + ([f"{one['diverged']} of {one['seeds']} diverged"] if one["diverged"] else []))


def notes(table: Mapping[str, Any]) -> Iterator[str]:
    tuning = ", ".join(map(str, table["tuning_seeds"]))
    yield from (
        "- Losses are nats per token on the same held-out text: mean ± one standard deviation over seeds.",
        f"- An arm's learning rate is the one with its lowest mean loss over the seeds {tuning}.",
        "- Differences are means over the seeds that both arms have, each arm at its own learning rate, with the 95 %"
        " interval of Student's t.",
        "  Runs of one seed start from the same weights and see the same batches.",
        '- "can\'t tell" means that the interval holds zero.',
        "- Intervals are not widened for the number of comparisons. Learning rates were chosen on the held-out text on"
        " which losses are measured.",
    )


def lines(headings: list[str], left: int, rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table whose first `left` columns are flush left, and an empty line."""
    widths = [max(map(len, column)) for column in zip(headings, *rows)]
    yield "| " + " | ".join(fill(word, width, i < left) for i, (word, width) in enumerate(zip(headings, widths))) + " |"
    rules = ("-" * (width + 2) if i < left else "-" * (width + 1) + ":" for i, width in enumerate(widths))
    yield "|" + "|".join(rules) + "|"
    for row in rows:
        yield "| " + " | ".join(fill(word, width, i < left) for i, (word, width) in enumerate(zip(row, widths))) + " |"
    yield ""


def fill(word: str, width: int, left: bool) -> str:
    return word.ljust(width) if left else word.rjust(width)
