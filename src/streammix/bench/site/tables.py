"""The site suite as tables in the terminal."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from . import one_site
from .memory import KINDS
from .models import OURS
from .of_recipes import BASE
from .streams import CLONE, COPY, NEW

Rows = list[dict[str, Any]]


def table(title: str, *columns: str) -> Table:
    """An empty table whose columns are numbers but for the first and those of names."""
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, justify="left" if place == 0 or column in ("model", "to") else "right")
    return made


def streams_table(rows: Rows) -> Iterable[Table]:
    made = table(
        "Read and write: bytes that have to move a second, and their share of a large copy's (float32 coefficients)",
        *("operation", "tokens", "n", "C", "streams", "output memory", "ms", "MB", "GB/s", "of copy"),
    )
    previous, shown = None, set()
    for row in rows:
        shape = (row["tokens"], row["n"], row["C"], row["dtype"], row["memory"])
        copies = row["operation"] in (COPY, CLONE)
        if copies and row["operation"] in shown:
            continue  # measured with every shape, shown once
        shown.add(row["operation"])
        if previous is not None and previous != (shape, copies):
            made.add_section()
        previous = shape, copies
        label = [f"{row['tokens']:,}", str(row["n"]), str(row["C"]), row["dtype"], row["memory"]]
        if copies:
            label = ["", "", "", "", NEW if row["operation"] == CLONE else "there before"]
        made.add_row(
            row["operation"] if copies else f"{row['operation']} {row['pass']}",
            *label,
            f"{row['seconds'] * 1e3:,.2f}",
            f"{row['bytes'] / 1e6:,.0f}",
            f"{row['gb_per_s']:,.1f}",
            f"{row['of_copy']:.0%}",
        )
    return [made]


def site_tables(rows: Rows) -> Iterable[Table]:
    for which in dict.fromkeys(row["pass"] for row in rows):
        part = [row for row in rows if row["pass"] == which]
        dims = list(dict.fromkeys(row["C"] for row in part))
        columns = [text for dim in dims for text in (f"C = {dim}, ms", "over residual")]
        made = table(
            f"One site without a branch, {which}, n = {part[0]['n']}, {part[0]['tokens']:,} tokens", "", *columns
        )
        for name in dict.fromkeys(row["contender"] for row in part):
            mine = [row for row in part if row["contender"] == name]
            cells = [text for row in mine for text in (f"{row['seconds'] * 1e3:,.2f}", f"{row['over_residual']:.1f}x")]
            made.add_row(name, *cells, style="bold" if name == one_site.OURS else None)
        yield made


def recipes_table(rows: Rows) -> Iterable[Table]:
    first = rows[0]
    made = table(
        f"One site without a branch, forward+backward, {first['tokens']:,} tokens, C = {first['C']}",
        *("recipe", "n", "ms", f"over {BASE}", f"over {BASE} of n streams"),
    )
    for row in rows:
        cells = f"{row['seconds'] * 1e3:,.2f}", f"{row['over_mhc']:.2f}x", f"{row['over_mhc_of_n']:.2f}x"
        made.add_row(row["recipe"], str(row["n"]), *cells, style="bold" if row["recipe"] == BASE else None)
    return [made]


def step_table(rows: Rows) -> Iterable[Table]:
    first = rows[0]
    made = table(
        f"Training step (forward, loss, backward), {first['layers']} layers, {first['tokens']:,} tokens,"
        f" n = {first['n']}",
        *("dim", "model", "seconds", "ratio", "to"),
    )
    for row in rows:
        style = "bold" if row["model"] == OURS else None
        made.add_row(
            str(row["dim"]), row["model"], f"{row['seconds']:.3f}", f"{row['ratio']:.3f}", row["base"], style=style
        )
    return [made]


def decoding_table(rows: Rows) -> Iterable[Table]:
    made = table(
        f"Forward pass of one token, {rows[0]['layers']} layers, n = {rows[0]['n']}",
        *("dim", "model", "ms", "over residual", "µs more a site"),
    )
    for row in rows:
        cells = f"{row['seconds'] * 1e3:.3f}", f"{row['ratio']:.3f}", f"{row['us_per_site']:.1f}"
        made.add_row(str(row["dim"]), row["model"], *cells, style="bold" if row["model"] == OURS else None)
    return [made]


def diagnosing_table(rows: Rows) -> Iterable[Table]:
    made = table(
        f"Diagnostics of all sites, once every {rows[0]['every']} steps, n = {rows[0]['n']},"
        f" {rows[0]['layers']} blocks, {rows[0]['tokens']:,} tokens a step",
        *("C", "step, ms", "diagnosis, ms", "share of the time"),
    )
    for row in rows:
        seconds = (f"{row[name] * 1e3:,.1f}" for name in ("step", "diagnosis"))
        made.add_row(str(row["dim"]), *seconds, f"{row['share']:.2%}")
    return [made]


def memory_table(rows: Rows) -> Iterable[Table]:
    first = rows[0]
    made = table(
        f"Activation memory of a training step, {first['layers']} layers, {first['tokens']:,} tokens, n = {first['n']},"
        " MB; one state: tokens x n x dim numbers",
        *("dim", "model", "saved for backward", "more a site, states", "held after forward", "more a site, states"),
        *("peak", "more a site, states"),
    )
    for row in rows:
        cells = [
            text
            for kind in KINDS
            for text in (
                ("-", "-") if row[kind] is None else (f"{row[kind] / 1e6:,.1f}", f"{row[kind + '_states']:.2f}")
            )
        ]
        made.add_row(str(row["dim"]), row["model"], *cells, style="bold" if row["model"] == OURS else None)
    return [made]
