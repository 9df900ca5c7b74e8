"""Which implementation of the operators runs, and why.

A backend is a package beside this file that says its NAME, its DEVICES, what it ACCEPTS in words and `serves` in code,
and its `status()`, and that registers its kernels on the namespace `streammix` under its device's dispatch key. One
that makes a site's matrix in the kernel of its logits also says for which n: `mixes(n)`. BACKENDS is the one place that
names it.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from . import cpu, eager, sharding, triton
from .registry import DISPATCHED, EAGER, Operators, operators

#: The first that serves a tensor is chosen; eager, which serves all, is the last.
BACKENDS: tuple[ModuleType, ...] = (cpu, triton, eager)
AUTO, EAGER_NAME, VARIABLE = "auto", eager.NAME, "STREAMMIX_BACKEND"


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators.

    name: what `streammix.backend(name)` takes.
    devices: device types it serves.
    available: whether it can run here; `reason` says why, or why not.
    chosen: whether it is used on some device where nothing else is asked for.
    """

    name: str
    devices: tuple[str, ...]
    available: bool
    chosen: bool
    reason: str


def backends() -> tuple[Backend, ...]:
    """What is built, what is chosen in this process and why."""
    described = []
    for one in BACKENDS:
        status = one.status()
        chosen = status.available if _default == AUTO else _default == one.NAME
        reason = status.reason if _default == AUTO else f"{status.reason}; {VARIABLE} is {_default}"
        described.append(Backend(one.NAME, one.DEVICES, status.available, chosen, reason))
    return tuple(described)


def check_backend(name: str, asked_by: str) -> str:
    """The name of a backend that can run here, or "auto"; an error that says which are accepted, or why it cannot."""
    known = {one.NAME: one for one in BACKENDS}
    if name != AUTO:
        if name not in known:
            raise ValueError(f"{asked_by}: no backend is called {name!r}; accepted: {AUTO}, {', '.join(known)}")
        if not (status := known[name].status()).available:
            raise RuntimeError(f"{asked_by}: backend {name!r} cannot run here: {status.reason}")
    return name


#: What every thread begins with: the environment's choice for this process.
_default = check_backend(os.environ.get(VARIABLE) or AUTO, VARIABLE)


class _Choice(threading.local):
    """Each thread's own choice."""

    def __init__(self) -> None:
        self.name = _default


_choice = _Choice()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the operators called inside, and the backward passes of those calls, with one backend.

    Args:
        name: "eager"; "cpu" or "triton" (tensors elsewhere or too large for it raise); or "auto" (native where a
            native kernel serves the tensor, eager elsewhere; the default).

    Raises:
        ValueError: no backend has this name.
        RuntimeError: the backend exists but cannot run here; the message says why.

    The choice is the calling thread's own. The environment variable STREAMMIX_BACKEND makes that of a whole process.
    """
    check_backend(name, "backend")
    before = _choice.name
    _choice.name = name
    try:
        yield
    finally:
        _choice.name = before


def operators_for(tensor: Tensor, n: int) -> Operators:
    """The operators in force for a tensor of n streams, or of n x n matrices.

    Where no backend is written for the tensor's device, the dispatched operators run the plain formulas: kernels that
    something else registers there are found.

    Raises:
        RuntimeError: the backend asked for does not serve them.
    """
    if type(tensor) is not Tensor and sharding.is_sharded(tensor):  # the first costs less than the call
        sharding.register()
    name = _choice.name
    if name == EAGER_NAME:
        return operators[EAGER]
    device, dtype = tensor.device.type, tensor.dtype
    declined = False
    for one in BACKENDS:
        if device in one.DEVICES if name == AUTO else name == one.NAME:
            if one.serves(device, n, dtype):
                return operators[DISPATCHED]
            if name != AUTO:
                where = ", ".join(one.DEVICES)
                raise RuntimeError(
                    f"backend {name!r}: got n = {n}, {dtype} on {device}; accepted: {one.ACCEPTS} on {where}"
                )
            declined = True
    return operators[EAGER if declined else DISPATCHED]


def mixes(tensor: Tensor, n: int) -> bool:
    """Whether the backend in force for a tensor of n streams makes a site's n x n matrix in the kernel of its logits,
    so
    that the operators `mixed_site_read` and `write_mixed_site_read` spare a launch."""
    device, dtype = tensor.device.type, tensor.dtype
    for one in BACKENDS:
        if device in one.DEVICES and _choice.name in (AUTO, one.NAME):
            mixing = getattr(one, "mixes", None)
            return mixing is not None and one.serves(device, n, dtype) and mixing(n)
    return False
