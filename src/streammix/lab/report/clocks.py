"""What a step was in tokens and in seconds, so that a page can show curves over any of the three."""

import statistics
from collections.abc import Iterable
from typing import Any

from streammix.lab.report.comparison import Run

POINTS = 30


def clocks(runs: Iterable[tuple[str, Iterable[Run]]]) -> dict[str, dict[str, list[float]]]:
    """For each name steps, and the mean over its runs of tokens and seconds at them; nothing where it is not known."""
    made: dict[str, dict[str, list[float]]] = {}
    for name, several in runs:
        at: dict[int, list[dict[str, Any]]] = {}
        for run in several:
            for record in run.train:
                if {"tokens", "seconds"} <= record.keys():
                    at.setdefault(record["step"], []).append(record)
        if not at:
            continue
        # Seconds grow from run to run at different rates: a step that fewer runs reached would bend their mean.
        most = max(map(len, at.values()))
        steps = sorted(step for step, records in at.items() if len(records) == most)
        steps = sorted({*steps[:: max(1, len(steps) // POINTS)], steps[-1]})
        made[name] = {"step": [0.0, *map(float, steps)]}
        for kind in ("tokens", "seconds"):
            means = (statistics.fmean(record[kind] for record in at[step]) for step in steps)
            made[name][kind] = [0.0, *(float(f"{mean:.6g}") for mean in means)]
    return made
