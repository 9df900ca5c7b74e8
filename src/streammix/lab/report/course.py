"""The course of a training: what its diagnostics say at a few of its steps, between which a slider chooses."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streammix.diagnostics import Summary
from streammix.lab.report.style import Palette
from streammix.lab.report.tiles import DENSE, Group, Tile, grid

MOST = 25  # places of the slider
CELLS = 24_000  # numbers of all maps together at most, to keep the page light; with more sites there are fewer places

Diagnoses = Mapping[int, Summary]


@dataclass
class Course:
    """Each name's summary at every step the slider has; where it has none of that step, the last before it."""

    steps: list[int]
    at: dict[str, list[Summary]]

    def data(self) -> dict[str, Any]:
        """What the page's script sets the maps by: read, write and mix of every site at every step."""
        maps = {
            name: [[numbers(s.read), numbers(s.write), numbers(s.mix)] for s in summaries]
            for name, summaries in self.at.items()
        }
        return {"steps": self.steps, "maps": maps}


def course(diagnoses: Mapping[str, Diagnoses]) -> Course | None:
    """The steps at which any of the runs was measured, thinned; None where there are none."""
    known = {name: one for name, one in diagnoses.items() if one}
    if not known:
        return None
    steps = thinned(sorted({step for one in known.values() for step in one}), places(known))
    at: dict[str, list[Summary]] = {}
    for name, one in known.items():
        own = sorted(one)
        at[name] = [one[own[max(0, bisect_right(own, step) - 1)]] for step in steps]
    return Course(steps, at)


def places(diagnoses: Mapping[str, Diagnoses]) -> int:
    """How many steps the slider may have."""
    one = [next(iter(each.values())) for each in diagnoses.values()]
    cells = sum(summary.mix.numel() + 2 * summary.read.numel() for summary in one)
    return max(2, min(MOST, CELLS // cells))


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[i * (len(steps) - 1) // (most - 1)] for i in range(most)]


def numbers(tensor: Tensor) -> Any:
    """Nested lists of numbers with three digits; None where one is not finite."""
    values = tensor.tolist()

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(one) for one in value]
        return float(f"{value:.3g}") if abs(value) < float("inf") else None

    return short(values)


def groups(made: Course, palette: Palette) -> list[Group]:
    """The maps at the last step, as tiles; the page's script changes their cells."""
    return [Group(name, palette.index(name), None, tiles(all_of[-1])) for name, all_of in made.at.items()]


def tiles(summary: Summary) -> list[Tile]:
    """Its sites; how far tokens differ was not kept."""
    made = []
    for name, *maps in zip(summary.sites, summary.read, summary.write, summary.mix):
        unknown = [torch.full_like(one, torch.nan) for one in maps]
        made.append(grid(name, [one.nan_to_num(0) for one in maps], unknown, dense=len(maps[0]) > DENSE))
    return made
