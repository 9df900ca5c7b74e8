"""The digits suite: options, measurement, table and picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from streammix import birkhoff, sinkhorn
from streammix.bench import figure
from streammix.bench.suite import Part, Rows, Suite
from streammix.lab.errors import LabError

from .column_sums import newton_on_sums

GAPS = range(0, 27, 2)
SMALLEST = 1e-12  # entries below it are not looked at: past a gap of 26 most are

OURS, SUMS, SINKHORN = "sm.birkhoff", "Newton on column sums", "20 Sinkhorn rounds"
MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    OURS: birkhoff,
    SUMS: newton_on_sums,
    SINKHORN: partial(sinkhorn, recipe="mhc"),
}
COLOURS = {OURS: figure.OURS, SUMS: figure.OTHERS[0], SINKHORN: figure.OTHERS[2]}


@dataclass(frozen=True)
class Settings:
    """n: rows of the matrices; count: matrices of each gap."""

    n: int = 4
    count: int = 2_000


def parts(settings: Settings) -> Mapping[str, Part]:
    if settings.n < 2:
        raise LabError(f"--n: got {settings.n}; accepted: integers >= 2")
    if settings.count < 1:
        raise LabError(f"count: got {settings.count}; accepted: integers >= 1")
    return {"digits": Part(lambda _: digits(n=settings.n, count=settings.count), lambda rows: [_table(rows)])}


def digits(*, n: int = 4, count: int = 2_000) -> Rows:
    """Relative errors of the entries above 1e-12, in float32: one row a gap and projection.

    The logits: `gap` on a random permutation + N(0,1), which is how mHC starts (gap 8). The reference: `sm.birkhoff`
    in float64, itself within 1e-12 of 50-digit arithmetic (tests/ops/test_birkhoff_digits.py).
    """
    torch.manual_seed(0)
    rows = []
    for gap in GAPS:
        permutation = torch.nn.functional.one_hot(torch.rand(count, n).argsort(-1), n)
        R = gap * permutation.float() + torch.randn(count, n, n)
        exact = birkhoff(R.double())
        seen = exact > SMALLEST
        for name, project in MAPS.items():
            error = ((project(R).double() - exact).abs() / exact)[seen]
            rows.append(
                {"gap": gap, "n": n, "projection": name, "median": error.median().item(), "max": error.max().item()}
            )
    return rows


def _table(rows: Rows) -> Table:
    table = Table(title="Relative error of an entry, float32: median / worst", title_justify="left")
    table.add_column("gap", justify="right")
    names = list(dict.fromkeys(row["projection"] for row in rows))
    for name in names:
        table.add_column(name, justify="right")
    for gap in dict.fromkeys(row["gap"] for row in rows):
        mine = {row["projection"]: f"{row['median']:.0e} / {row['max']:.0e}" for row in rows if row["gap"] == gap}
        table.add_row(str(gap), *(mine[name] for name in names))
    return table


def _curves(ax: Any, rows: Rows) -> None:
    for name in dict.fromkeys(row["projection"] for row in rows):
        for which, style in (("max", "-"), ("median", ":")):
            mine = [row for row in rows if row["projection"] == name]
            ax.plot(
                [row["gap"] for row in mine],
                [row[which] for row in mine],
                style,
                color=COLOURS[name],
                marker="o" if which == "max" else None,
                markersize=3,
                label=name if which == "max" else None,
            )
    ax.set_yscale("log")
    ax.set_xlabel("gap: logits are gap on a permutation + N(0,1)")
    ax.set_ylabel("relative error of an entry")
    ax.set_title(f"float32, n = {rows[0]['n']}: worst entry (solid), median (dotted)", fontsize=10)
    ax.legend(fontsize=8, frameon=False)


PANELS: Mapping[str, Callable[[Any, Rows], None]] = {"digits": _curves}
SUITE = Suite(Settings, parts, PANELS)
