"""What the C library's malloc does with memory that is freed decides what a call that needs as much again costs."""

import contextlib
import ctypes
from collections.abc import Iterator

import torch

BLOCK = 31 << 20  # bytes
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # mallopt(3), glibc
LARGEST_INT = 2**31 - 1


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
