"""Run times that a noisy machine can't spoil: contenders take turns, ratios are taken turn by turn."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SAMPLE_SECONDS = 2e-3  # a sample repeats a call until it lasts at least this long


@dataclass(frozen=True)
class Timing:
    """One contender's seconds a call, a number a turn."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds a call."""
        return statistics.median(self.samples)

    def over(self, other: "Timing") -> float:
        """Median of the turn-by-turn ratio to another contender of the same run."""
        return statistics.median(a / b for a, b in zip(self.samples, other.samples))


def interleaved(calls: Mapping[str, Callable[[], object]], *, turns: int = 15) -> dict[str, Timing]:
    """Time every call once a turn, in order, after a warm-up.

    Args:
        calls: name -> what to run.
        turns: how many samples each gets.

    Returns:
        name -> Timing, in the same order.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            samples[name].append(_seconds(call, repeats[name]))
    return {name: Timing(tuple(s)) for name, s in samples.items()}


def _repeats(call: Callable[[], object]) -> int:
    call()  # compiles, allocates
    return max(1, round(SAMPLE_SECONDS / max(min(_seconds(call, 1) for _ in range(2)), 1e-9)))


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
