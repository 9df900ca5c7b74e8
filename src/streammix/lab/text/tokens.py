"""Tokens in files, read piece by piece."""

import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streammix.lab.errors import LabError


class Tokens:
    """The tokens in one file or several, one after the other, as if in one array; read-only.

    Files are read by pread rather than mapped into memory: whoever touches a mapping whose file was cut meanwhile is
    killed by SIGBUS, while a short read can be said. Where a file is replaced, the one that was opened is read on.

    Args:
        parts: each file and how many tokens it holds.
        dtype: unsigned, of each token; in files its bytes are in little-endian order.

    Raises:
        LabError: a file cannot be opened, or has another size. When it is read: it has become shorter.
    """

    def __init__(self, parts: Sequence[tuple[Path, int]], dtype: np.dtype | type = np.uint8) -> None:
        self.dtype = np.dtype(dtype)
        self.parts = [(path, count) for path, count in parts if count]
        self.starts = np.cumsum([0, *(count for _, count in self.parts)])
        self.descriptors: dict[int, int] = {}
        for path, count in parts:
            require_size(path, count * self.dtype.itemsize)
        weakref.finalize(self, close, self.descriptors)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, wanted: slice) -> np.ndarray:
        start, stop, step = wanted.indices(len(self))
        if step != 1:
            raise ValueError(f"tokens: got the step {step}; accepted: 1")
        found = np.empty(max(stop - start, 0), self.dtype)
        part = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self.starts[part + 1]))
            here = self.read(part, start - int(self.starts[part]), end - start)
            found[len(found) - (stop - start) : len(found) - (stop - end)] = here
            start, part = end, part + 1
        return found

    def read(self, part: int, first: int, count: int) -> np.ndarray:
        """`count` tokens of one file, the first of which is its number `first`."""
        path, wanted = self.parts[part][0], count * self.dtype.itemsize
        content = b""
        while len(content) < wanted:  # a single read may give less, beyond 2 GiB say
            more = os.pread(self.opened(part), wanted - len(content), first * self.dtype.itemsize + len(content))
            if not more:
                raise LabError(f"{path}: has become shorter while it was in use; it must not change under a run")
            content += more
        found = np.frombuffer(content, self.dtype)
        return found if sys.byteorder == "little" else found.byteswap()

    def opened(self, part: int) -> int:
        if part not in self.descriptors:
            if len(self.descriptors) >= OPEN:
                os.close(self.descriptors.pop(next(iter(self.descriptors))))
            self.descriptors[part] = opened(self.parts[part][0])
        return self.descriptors[part]

    def __bytes__(self) -> bytes:
        return self[:].tobytes()


OPEN = 64  # files open at once, by each of the two parts of a text


def opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise LabError(f"{path}: cannot be read ({error.strerror})") from None


def close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def require_size(path: Path, size: int) -> None:
    """Raise LabError unless there is a file of so many bytes."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise LabError(f"{path}: is missing") from None
    except OSError as error:
        raise LabError(f"{path}: cannot be read ({error.strerror})") from None
    if found != size:
        raise LabError(f"{path}: has {found} bytes; {size} were written")
