"""Files that are either wholly there or not there at all."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streammix.lab.errors import LabError

# Unfinished or discarded work carries this prefix: whatever has it may be deleted by the next run.
SCRATCH = ".scratch-"


def scratch_beside(path: Path) -> Path:
    """An unused name in `path`'s folder, on the same file system, so that renaming it to `path` is atomic."""
    return path.with_name(f"{SCRATCH}{path.name}-{uuid.uuid4().hex[:8]}")


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with naming(path), open(path, "wb") as file:
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
    """Delete what an interrupted process left half-written in `folder`."""
    for leftover in folder.glob(f"{SCRATCH}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def write_json(path: Path, value: Any) -> None:
    replace_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LabError(f"{path}: no such file") from None
    except ValueError as error:
        raise LabError(f"{path}: not valid JSON ({error})") from None
