"""The site suite's pictures."""

from typing import Any

from streammix.bench import figure

from . import one_site
from .models import OURS
from .streams import CLONE, COPY

Rows = list[dict[str, Any]]


def _streams(ax: Any, rows: Rows) -> None:
    """GB/s at the first shape, in float32 and in bfloat16, into memory that was kept where there is such."""
    first = rows[0]
    alike = ("tokens", "n", "C", "memory")
    part = [row for row in rows if all(row[key] == first[key] for key in alike)]
    values = {COPY: first["gb_per_s"]}
    colours = dict.fromkeys(values, figure.FLOOR)
    for row in part:
        if row["operation"] not in (COPY, CLONE):
            name = f"{row['operation']} {row['pass']}, {row['dtype']}"
            values[name], colours[name] = row["gb_per_s"], figure.OURS
    figure.bars(ax, values, colours, ".1f")
    ax.axvline(values[COPY], color=figure.FLOOR, linewidth=1)
    ax.set_xlabel("GB/s that have to move (higher is better)")
    ax.set_title(f"Read and write, {first['tokens']:,} tokens, n = {first['n']}, C = {first['C']}", fontsize=10)


def _site(ax: Any, rows: Rows) -> None:
    """Milliseconds forward and backward at the largest width."""
    C = max(row["C"] for row in rows)
    part = [row for row in rows if row["C"] == C and row["pass"] == "forward+backward"]
    values = {row["contender"]: row["seconds"] * 1e3 for row in part}
    others = iter(figure.OTHERS)
    known = {one_site.RESIDUAL: figure.FLOOR, one_site.OURS: figure.OURS}
    figure.bars(ax, values, {name: known.get(name) or next(others) for name in values}, ".2f")
    ax.set_xlabel("milliseconds, forward + backward (lower is better)")
    ax.set_title(f"One site without a branch, {part[0]['tokens']:,} tokens, C = {C}", fontsize=10)


def _step(ax: Any, rows: Rows) -> None:
    """Ratios to the plain model at every width."""
    part = [row for row in rows if row["model"] != row["base"]]
    values = {f"{row['model']}, dim {row['dim']}": row["ratio"] for row in part}
    colours = {f"{row['model']}, dim {row['dim']}": _colour(row["model"]) for row in part}
    figure.bars(ax, values, colours, ".2f")
    ax.axvline(1, color=figure.FLOOR, linewidth=1)
    ax.set_xlabel("training step over the plain model (lower is better)")
    ax.set_title(f"GPT, {rows[0]['layers']} layers, {rows[0]['tokens']:,} tokens, n = {rows[0]['n']}", fontsize=10)


def _colour(model: str) -> str:
    return figure.OURS if model == OURS else figure.OTHERS[0]


PANELS = {"streams": _streams, "site": _site, "step": _step}
