"""Memory of a call, read from the operating system and the allocator."""

import ctypes
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): resets VmHWM to the current size


def available() -> bool:
    """Whether the operating system tells: Linux only."""
    return CLEAR.exists()


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def allocated() -> int | None:
    """Bytes that the allocator has given out and not got back; None where it does not tell (glibc does)."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return None
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return info.uordblks + info.hblkhd


def growth(call: Callable[[], object]) -> int:
    """Bytes by which the process grows at most during a call. Run the call before once, for what torch loads once."""
    _return_freed_memory()
    before = _kilobytes("VmRSS")
    CLEAR.write_text(RESET_PEAK)
    call()
    return 1024 * (_kilobytes("VmHWM") - before)


def _return_freed_memory() -> None:
    """Give what earlier calls freed back to the system, or the next would grow into it unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))
