"""Run times that a noisy machine can't spoil: contenders take turns, ratios are taken turn by turn."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streammix.bench import memory

SAMPLE_SECONDS = 2e-3  # a sample repeats a call until it lasts at least this long
LEAST_SAMPLES = 3  # of the slowest contender, where there are as many turns
WARMED = 0.5  # seconds a call takes at most for a sample of it to begin with one that is not timed


@dataclass(frozen=True)
class Timing:
    """One contender's seconds a call, a number for each turn; None for the turns that a slow one sat out."""

    samples: tuple[float | None, ...]

    @property
    def median(self) -> float:
        """Seconds a call."""
        return statistics.median(a for a in self.samples if a is not None)

    def over(self, other: "Timing") -> float:
        """Median of the turn-by-turn ratio to another contender of the same run."""
        return statistics.median(a / b for a, b in self._pairs(other))

    def minus(self, other: "Timing") -> float:
        """Median of the turn-by-turn difference, in seconds."""
        return statistics.median(a - b for a, b in self._pairs(other))

    def _pairs(self, other: "Timing") -> list[tuple[float, float]]:
        pairs = zip(self.samples, other.samples)
        return [(a, b) for a, b in pairs if a is not None and b is not None]


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, turns: int = 15, budget: float = float("inf")
) -> dict[str, Timing]:
    """Time every call once a turn, in order.

    A sample begins with a call that is not timed (but for calls of more than WARMED seconds): what is measured is a
    contender that runs again and again, in the caches and with the memory that it left itself, not its neighbour's.

    Args:
        calls: name -> what to run.
        turns: how many samples each gets.
        budget: seconds for the timed samples of one call. One that would take longer sits out every other turn, or
            takes one turn of four and so on, but has at least LEAST_SAMPLES; any two share the turns of the slower one.

    Returns:
        name -> Timing, in the same order.
    """
    memory.settle()
    for call in calls.values():
        call()  # compiles
    repeats, strides = dict.fromkeys(calls, 1), dict.fromkeys(calls, 1)
    samples: dict[str, list[float | None]] = {name: [] for name in calls}
    for turn in range(turns):
        for name, call in calls.items():
            if turn == 0:
                repeats[name], seconds = _first_sample(call)
                strides[name] = _stride(turns, repeats[name] * seconds, budget)
                samples[name].append(seconds)
            else:
                takes_part = turn % strides[name] == 0
                first = samples[name][0]
                warm = first is not None and first < WARMED
                samples[name].append(_seconds(call, repeats[name], warm=warm) if takes_part else None)
    return {name: Timing(tuple(s)) for name, s in samples.items()}


def _first_sample(call: Callable[[], object]) -> tuple[int, float]:
    """How many calls make a sample, and the first sample's seconds a call."""
    repeats, seconds = 1, _seconds(call, 1)
    while repeats * seconds < SAMPLE_SECONDS / 2:
        repeats = max(2 * repeats, round(SAMPLE_SECONDS / max(seconds, 1e-9)))
        seconds = _seconds(call, repeats)
    return repeats, seconds


def _stride(turns: int, sample: float, budget: float) -> int:
    """The least power of two that keeps a contender within its budget, or leaves it LEAST_SAMPLES samples."""
    stride = 1
    while sample * _taken(turns, stride) > budget and _taken(turns, 2 * stride) >= LEAST_SAMPLES:
        stride *= 2
    return stride


def _taken(turns: int, stride: int) -> int:
    return (turns + stride - 1) // stride


def _seconds(call: Callable[[], object], repeats: int, *, warm: bool = False) -> float:
    if warm:
        call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats
