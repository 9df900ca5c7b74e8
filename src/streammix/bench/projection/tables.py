"""The benchmark as tables in the terminal."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from .measure import OURS

Rows = list[dict[str, Any]]


def accuracy_table(rows: Rows) -> Table:
    table = Table(title="Sum of absolute row and column errors of a matrix (float32)", title_justify="left")
    for name, justify in (
        ("logits", "left"),
        ("projection", "left"),
        ("mean", "right"),
        ("median", "right"),
        ("max", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    previous = None
    for row in rows:
        first = row["family"] != previous
        if first and previous is not None:
            table.add_section()
        previous = row["family"]
        style = "bold" if row["projection"] == OURS else None
        stats = (f"{row[stat]:.1e}" for stat in ("mean", "median", "max"))
        table.add_row(row["family"] if first else "", row["projection"], *stats, style=style)
    return table


def speed_tables(rows: Rows) -> Iterable[Table]:
    """One table a family and pass: nanoseconds a matrix by batch, and ratios at the largest batch."""
    for family, which in dict.fromkeys((row["family"], row["pass"]) for row in rows):
        part = [row for row in rows if (row["family"], row["pass"]) == (family, which)]
        batches = list(dict.fromkeys(row["batch"] for row in part))
        table = Table(
            title=f"{which}, {family}, n = {part[0]['n']}: nanoseconds a matrix, by batch", title_justify="left"
        )
        table.add_column("")
        for batch in batches:
            table.add_column(f"{batch:,}", justify="right")
        table.add_column("over birkhoff", justify="right")
        table.add_column("over copy", justify="right")
        for name in dict.fromkeys(row["contender"] for row in part):
            mine = {row["batch"]: row for row in part if row["contender"] == name}
            cells = [f"{mine[batch]['ns_per_matrix']:,.1f}" for batch in batches]
            last = mine[batches[-1]]
            ratios = [f"{last['over_birkhoff']:.2f}x", f"{last['over_copy']:.1f}x"]
            table.add_row(name, *cells, *ratios, style="bold" if name == OURS else None)
        yield table


def cost_table(rows: Rows, label: str, title: str) -> Table:
    """Nanoseconds a matrix against n or against the logits' scale."""
    table = Table(title=title, title_justify="left")
    table.add_column(label, justify="right")
    columns = list(dict.fromkeys((row["pass"], row["contender"]) for row in rows))
    for which, name in columns:
        table.add_column(f"{name}\n{which}", justify="right")
    for value in dict.fromkeys(row[label] for row in rows):
        mine = {(row["pass"], row["contender"]): row["ns_per_matrix"] for row in rows if row[label] == value}
        table.add_row(f"{value:g}", *(f"{mine[column]:,.1f}" for column in columns))
    return table
