"""Memory of a call, read from torch's allocator and from the operating system."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import torch

from streammix.lab.bench import malloc

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): resets VmHWM to the current size


def available() -> bool:
    """Whether the operating system tells: Linux only."""
    return CLEAR.exists()


def allocations(call: Callable[[], object]) -> tuple[int, int]:
    """Bytes of CPU tensors that a call had at most at one time, and those that it left, beyond what was there before.

    Exact: from the events of torch's allocator, whatever memory the process keeps for later.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells stderr when it starts and stops
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    levels = list(itertools.accumulate(bytes_ for _, bytes_ in changes))
    del result
    return max(levels, default=0), levels[-1] if levels else 0


def growth(call: Callable[[], object]) -> int:
    """Bytes by which the process grows at most during a call. Run the call before once, for what torch loads once."""
    malloc.trim()  # or the call would grow into what others freed, unseen
    before = _kilobytes("VmRSS")
    CLEAR.write_text(RESET_PEAK)
    call()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))
