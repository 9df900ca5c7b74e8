"""Memory of a call; and freed memory, which malloc keeps or gives back, as a cost of the next call."""

import contextlib
import ctypes
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): resets VmHWM to the current size
BLOCK = 31 << 20  # bytes
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # mallopt(3), glibc
LARGEST_INT = 2**31 - 1


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
    trim()  # or the call would grow into what others freed, unseen
    before = _kilobytes("VmRSS")
    CLEAR.write_text(RESET_PEAK)
    call()
    return 1024 * (_kilobytes("VmHWM") - before)


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def settle() -> None:
    """Bring malloc to where it is in any process that trains.

    glibc gives freed memory back to the system beyond twice the largest block that was ever freed (64 MB at most), and
    what it has given back comes again page by page, at the cost of a copy. How much that is would otherwise depend on
    what the process happened to free before.
    """
    torch.empty(BLOCK, dtype=torch.uint8).fill_(1)


def trim() -> None:
    """Give what earlier calls freed back to the system."""
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if function is not None:
        function(0)


@contextlib.contextmanager
def keeping() -> Iterator[bool]:
    """Within the block malloc keeps all that is freed. Yields whether it does: glibc only.

    Without, every tensor of 32 MB and more is new memory each time, which the system clears first.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    changed = mallopt is not None and bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, LARGEST_INT))
    try:
        yield changed
    finally:
        if changed and mallopt is not None:
            mallopt(MMAP_MAX, 1 << 16)  # glibc's default
            mallopt(TRIM_THRESHOLD, 2 * BLOCK)
            trim()
