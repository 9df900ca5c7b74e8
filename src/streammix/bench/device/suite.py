"""The device suite's options, parts and tables."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from streammix.bench.site.tables import table
from streammix.bench.suite import Part, Suite
from streammix.lab.errors import LabError

from . import measure
from .clock import Clock

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """device: "cuda" (ROCm too), or "cpu", in small, to try it out; n: streams; turns: samples of each contender;
    compile: also measure what torch.compile makes of the formulas."""

    device: str = "cuda"
    n: int = 4
    turns: int = 7
    compile: bool = True


def parts(settings: Settings) -> Mapping[str, Part]:
    device, n, compiled = settings.device, settings.n, settings.compile
    if device not in ("cuda", "cpu"):
        raise LabError(f"--device: got {device!r}; accepted: cuda, cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise LabError("--device: no CUDA or ROCm device is available; --device cpu tries the suite out")
    if n < 2 or settings.turns < 1:
        raise LabError("--n takes integers >= 2, --turns integers >= 1")
    there = device == "cuda"
    clock = Clock(device, settings.turns)
    batches = (512, 2048, 8192, 32768, 131072, 2**20) if there else (512,)
    dims = (1024, 2048, 4096, 7168) if there else (64,)
    model = (
        {"dim": 1024, "layers": 12, "batch": 8, "context": 1024}
        if there
        else {"dim": 32, "layers": 2, "batch": 1, "context": 16}
    )
    measured = measure.copy(clock)
    rate = measured[0]["gb_per_s"]
    return {
        "copy": Part(lambda progress: measured, copy_table),
        "projection": Part(
            lambda progress: measure.projection(clock, n=n, batches=batches, compile=compiled, progress=progress),
            projection_table,
        ),
        "site": Part(
            lambda progress: measure.site(
                clock, n=n, dims=dims, tokens=8192 if there else 64, gb_per_s=rate, compile=compiled, progress=progress
            ),
            site_table,
        ),
        "step": Part(lambda progress: measure.step(clock, n=n, progress=progress, **model), step_table),
    }  # fmt: skip


def copy_table(rows: Rows) -> Iterable[Table]:
    made = table("A large copy, read and written", "MB", "ms", "GB/s")
    for row in rows:
        made.add_row(f"{row['bytes'] / 1e6:,.0f}", f"{row['seconds'] * 1e3:.3f}", f"{row['gb_per_s']:,.0f}")
    return [made]


def projection_table(rows: Rows) -> Iterable[Table]:
    for which in dict.fromkeys(row["pass"] for row in rows):
        part = [row for row in rows if row["pass"] == which]
        names = list(dict.fromkeys(row["contender"] for row in part))
        made = table(f"The projection, {which}, n = {part[0]['n']}: ns a matrix", "logits", "batch", *names)
        for family, batch in dict.fromkeys((row["family"], row["batch"]) for row in part):
            mine = {r["contender"]: r for r in part if (r["family"], r["batch"]) == (family, batch)}
            made.add_row(family, f"{batch:,}", *(ns(mine.get(name)) for name in names))
        yield made


def ns(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['ns_per_matrix']:,.3f}"


def site_table(rows: Rows) -> Iterable[Table]:
    first = rows[0]
    made = table(
        f"Between two branches, {first['tokens']:,} tokens, n = {first['n']}, bfloat16",
        *("", "C", "pass", "µs", "GB/s of the least traffic", "of a copy"),
    )
    for row in rows:
        cells = f"{row['us']:,.1f}", f"{row['gb_per_s']:,.0f}", f"{row['of_copy']:.0%}"
        made.add_row(row["contender"], str(row["C"]), row["pass"], *cells)
    return [made]


def step_table(rows: Rows) -> Iterable[Table]:
    first = rows[0]
    made = table(
        f"Training step, {first['layers']} layers, dim {first['dim']}, {first['tokens']:,} tokens, bfloat16 autocast",
        *("model", "ms", "over residual"),
    )
    for row in rows:
        made.add_row(row["model"], f"{row['ms']:,.2f}", f"{row['over_residual']:.3f}")
    return [made]


SUITE = Suite(Settings, parts, {})
