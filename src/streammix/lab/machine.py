"""The machine that a run has: its processor, device, threads and memory."""

import contextlib
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from streammix.lab.config import Config
from streammix.lab.errors import LabError


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = next((line.split(":", 1)[1].strip() for line in names if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def pick_device(config: Config) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise LabError("--device is cuda, and torch sees no CUDA device; accepted here: cpu, auto")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Within the block torch uses `count` threads; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(device: torch.device) -> int:
    """Bytes at their highest: of this device's tensors on a GPU, of this whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory from before exec
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
