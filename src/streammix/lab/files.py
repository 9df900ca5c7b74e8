"""Files that are either wholly there or not there at all."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from streammix.lab.errors import LabError

# Unfinished or discarded work carries this prefix: whatever has it may be deleted by the next run.
SCRATCH = ".scratch-"


def scratch_beside(path: Path) -> Path:
    """An unused name in `path`'s folder, on the same file system, so that renaming it to `path` is atomic."""
    return path.with_name(f"{SCRATCH}{path.name}-{uuid.uuid4().hex[:8]}")


def private(path: str, flags: int) -> int:
    """An opener for files that only the user may read."""
    return os.open(path, flags, 0o600)


def write_durably(path: Path, content: bytes, *, opener: Callable[[str, int], int] | None = None) -> None:
    """Write a new file and wait until the disk has it."""
    with naming(path), open(path, "wb", opener=opener) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors of writing to it, which the system leaves out (a full disk, say)."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Make renames and deletions inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: a reader sees the old file or the new one, never a part."""
    scratch = scratch_beside(path)
    try:
        write_durably(scratch, content)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill the folder this yields; on leaving the block it becomes `path` in one step, or vanishes on an error.

    An existing folder at `path` is replaced. Every file in the folder must have been written durably.
    """
    scratch = scratch_beside(path)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        sync_folder(scratch)
        if path.exists():
            discard_folder(path)
        os.rename(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    sync_folder(path.parent)


def discard_folder(path: Path) -> None:
    """Delete a folder so that an interruption leaves it whole or gone: renamed away first, then emptied."""
    away = scratch_beside(path)
    os.rename(path, away)
    shutil.rmtree(away)


def clear_scratch(folder: Path) -> None:
    """Delete what an interrupted process left half-written in `folder`; only for who has the folder to himself."""
    for leftover in folder.glob(f"{SCRATCH}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file for this process; the system lets go of it when the process ends, however it ends.

    Yields whether the lock is held: without `wait` it is not where another process holds it. The file's content is
    never touched. Where the system has no such locks (Windows), nothing is locked.

    Raises:
        LabError: there is a link or something else than a file at `path`.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with open_own(path, os.O_RDWR) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def open_own(path: Path, flags: int) -> BinaryIO:
    """Open a file that is the program's own, unbuffered, making it if need be; for whoever may read nothing else.

    Links are not followed, because a folder that came from someone else may have one to any file of the user's.

    Raises:
        LabError: there is a link or something else than a file at `path`.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise LabError(f"{path}: is {'a link' if path.is_symlink() else 'no file'}; accepted: a file of this program's")
    descriptor = os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "ab", buffering=0)


def append(file: BinaryIO, path: Path, content: bytes) -> None:
    """Append to an unbuffered file; a disk that fills up in the middle of it leaves the file as it was."""
    before = os.fstat(file.fileno()).st_size
    try:
        with naming(path):
            while content:
                content = content[file.write(content) :]
    except OSError:
        os.truncate(file.fileno(), before)
        raise


def write_json(path: Path, value: Any) -> None:
    replace_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LabError(f"{path}: no such file") from None
    except ValueError as error:
        raise LabError(f"{path}: not valid JSON ({error})") from None
    except RecursionError:
        raise LabError(f"{path}: not valid JSON (nested too deeply)") from None
