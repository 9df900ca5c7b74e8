"""Which implementation of the operators runs, and why."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

from torch import Tensor

from . import cpu
from .registry import DISPATCHED, EAGER, operators


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators.

    name: what `streammix.backend(name)` takes.
    devices: device types it serves.
    available: whether it can run here; `reason` says why, or why not.
    chosen: whether `auto` uses it on some device.
    """

    name: str
    devices: tuple[str, ...]
    available: bool
    chosen: bool
    reason: str


def backends() -> tuple[Backend, ...]:
    """What is built, what `auto` chooses and why."""
    everywhere = "plain PyTorch formulas, any device and n"
    return (
        Backend("eager", ("any",), True, True, everywhere),
        Backend("cpu", ("cpu",), cpu.library.loaded, cpu.library.loaded, cpu.library.reason),
    )


_choice = threading.local()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the operators called inside, and the backward passes of those calls, with one backend.

    Args:
        name: "eager"; "cpu" (the native one: tensors elsewhere or too large for it raise); or "auto" (native where a
            native kernel serves the tensor, eager elsewhere; the default).

    Raises:
        ValueError: no backend has this name.
        RuntimeError: the backend exists but cannot run here; the message says why.

    The choice is the calling thread's own.
    """
    known = {b.name: b for b in backends()}
    if name != "auto":
        if name not in known:
            raise ValueError(f"backend: no backend is called {name!r}; accepted: auto, {', '.join(known)}")
        if not known[name].available:
            raise RuntimeError(f"backend {name!r} cannot run here: {known[name].reason}")
    before = getattr(_choice, "name", "auto")
    _choice.name = name
    try:
        yield
    finally:
        _choice.name = before


def current() -> SimpleNamespace:
    """The operators of the backend in force, for operators without a native kernel."""
    return operators[EAGER if getattr(_choice, "name", "auto") == "eager" else DISPATCHED]


def current_for(tensor: Tensor, n: int) -> SimpleNamespace:
    """The operators in force for a tensor of n streams, or of n x n matrices.

    Raises:
        RuntimeError: the backend asked for does not serve them.
    """
    name = getattr(_choice, "name", "auto")
    if name == "eager" or (name == "auto" and n > cpu.LARGEST_N):
        return operators[EAGER]
    if name == "cpu" and (n > cpu.LARGEST_N or not tensor.is_cpu):
        where = tensor.device.type
        raise RuntimeError(f"backend 'cpu': got n = {n} on {where}; accepted: n <= {cpu.LARGEST_N} on cpu")
    return operators[DISPATCHED]
