"""Which implementation of the operators runs, and why."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

from .registry import DISPATCHED, EAGER, operators


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators.

    name: what `streammix.backend(name)` takes.
    devices: device types it serves.
    available: whether it can run here; `reason` says why, or why not.
    chosen: whether `auto` uses it on its devices.
    """

    name: str
    devices: tuple[str, ...]
    available: bool
    chosen: bool
    reason: str


def backends() -> tuple[Backend, ...]:
    """What is built, what `auto` chooses and why."""
    return (Backend("eager", ("any",), True, True, "plain PyTorch formulas; no native backend is built"),)


_choice = threading.local()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the operators called inside, and the backward passes of those calls, with one backend.

    Args:
        name: "eager", or "auto" (native where a native kernel serves the device, eager elsewhere; the default).

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
    """The operators of the backend in force."""
    return operators[EAGER if getattr(_choice, "name", "auto") == "eager" else DISPATCHED]
