"""The transport suite's options, parts and tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from streammix import transport
from streammix.bench.memory import allocations
from streammix.bench.suite import Part, Progress, Rows, Suite
from streammix.bench.timing import interleaved
from streammix.lab.errors import LabError

from .contenders import OURS, Map, contenders
from .problems import PROBLEMS, Drawn

SMALLEST = 1e-12  # of min(row, column): entries below it are not looked at
BUDGET = 8.0  # seconds for the samples of one contender


@dataclass(frozen=True)
class Settings:
    """problem: names of what to solve, all if none is given; count: how many at once, if not the problem's own; turns:
    samples of each contender; compile: also measure under torch.compile."""

    problem: tuple[str, ...] = ()
    count: int | None = None
    turns: int = 7
    compile: bool = True


def parts(settings: Settings) -> Mapping[str, Part]:
    for name in settings.problem:
        if name not in PROBLEMS:
            raise LabError(f"--problem: there is no problem {name!r}; accepted: {', '.join(PROBLEMS)}")
    if settings.turns < 1 or (settings.count is not None and settings.count < 1):
        raise LabError("--count and --turns take integers >= 1")
    return {
        "accuracy": Part(partial(accuracy, settings), lambda rows: [_table(rows, ACCURACY)]),
        "speed": Part(partial(speed, settings), lambda rows: [_table(rows, SPEED)]),
        "memory": Part(partial(memory, settings), lambda rows: [_table(rows, MEMORY)]),
    }


def accuracy(settings: Settings, progress: Progress) -> Rows:
    """Against `sm.transport` in float64, which is itself within 1e-11 of 50 digits (tests/ops/test_transport.py):
    columns, of themselves; entries, of themselves, above 1e-12 of min(row, column); the gradient of the logits, of its
    largest entry; those of one matrix in a hundred that are worst, and those that are in the middle."""
    rows = []
    for name, drawn in _drawn(settings, most=1024):
        progress(name)
        inputs = [x.double().requires_grad_() for x in drawn]
        exact = transport(*inputs)
        G = torch.randn_like(drawn[0])
        (D,) = torch.autograd.grad(exact, inputs[0], G.double())
        scale = torch.minimum(drawn[1].unsqueeze(-1), drawn[2].unsqueeze(-2)).double()
        for contender, project in contenders(compile=False).items():
            logits = drawn[0].clone().requires_grad_()
            T = project(logits, *drawn[1:])
            (ours,) = torch.autograd.grad(T, logits, G)
            T = T.detach().double()
            sums = (T.sum(-2) - exact.sum(-2)).abs() / exact.sum(-2)
            entries = torch.where(exact > SMALLEST * scale, (T - exact).abs() / exact, 0)
            slopes = (ours.double() - D).abs().flatten(1).amax(-1) / D.abs().flatten(1).amax(-1)
            worst = {"columns": sums.amax(-1), "entries": entries.flatten(1).amax(-1), "gradient": slopes}
            row: dict[str, Any] = {"problem": name, "contender": contender}
            for key, error in worst.items():
                row |= {f"{key} median": error.median().item(), f"{key} max": error.max().item()}
            rows.append(row)
    return rows


def speed(settings: Settings, progress: Progress) -> Rows:
    """Seconds a call, forward and forward + backward, interleaved."""
    rows = []
    for name, drawn in _drawn(settings):
        torch._dynamo.reset()
        maps = contenders(compile=settings.compile)
        for which, make in (("forward", _forward), ("forward+backward", _both)):
            progress(f"{name}, {which}")
            calls = {contender: make(project, drawn) for contender, project in maps.items()}
            timings = interleaved(calls, turns=settings.turns, budget=BUDGET)
            rows += [
                {
                    "problem": name,
                    "pass": which,
                    "contender": contender,
                    "count": len(drawn[0]),
                    "us_per_matrix": timing.median / len(drawn[0]) * 1e6,
                    "over_transport": timing.over(timings[OURS]),
                }
                for contender, timing in timings.items()
            ]
    return rows


def memory(settings: Settings, progress: Progress) -> Rows:
    """Bytes of tensors that a forward and backward pass has at most at one time, over those of the logits."""
    rows = []
    for name, drawn in _drawn(settings, most=4096):
        for contender, project in contenders(compile=False).items():
            progress(f"{name}, {contender}")
            call = _both(project, drawn)
            call()
            peak = allocations(call)[0]
            rows.append({"problem": name, "contender": contender, "peak_over_logits": peak / drawn[0].nbytes})
    return rows


def _drawn(settings: Settings, most: int | None = None) -> list[tuple[str, Drawn]]:
    found = []
    for name in settings.problem or PROBLEMS:
        torch.manual_seed(0)
        count = settings.count or PROBLEMS[name].count
        found.append((name, PROBLEMS[name].draw(min(count, most or count))))
    return found


def _forward(project: Map, drawn: Drawn) -> Callable[[], object]:
    def call() -> None:
        with torch.no_grad():
            project(*drawn)

    return call


def _both(project: Map, drawn: Drawn) -> Callable[[], object]:
    logits, rows, columns = drawn
    leaf, G = logits.clone().requires_grad_(), torch.randn_like(logits)

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(project(leaf, rows, columns), leaf, G)

    return call


ACCURACY = "Relative errors in float32: median and worst matrix"
SPEED = "Microseconds a matrix"
MEMORY = "Peak memory of forward + backward, over the logits'"


def _table(rows: Rows, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="right" if isinstance(rows[0][key], float) else "left")
    for row in rows:
        style = "bold" if row["contender"] == OURS else None
        cells = (f"{v:.2g}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*cells, style=style)
    return table


SUITE = Suite(Settings, parts, {})
