"""Which files a text is made of."""

import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from streammix.lab.errors import LabError


def find_standard_library() -> list[tuple[str, Path]]:
    """The running interpreter's own Python sources, without installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return [(name, path) for name, path in walk(root) if path.suffix == ".py"]


def find_files(text: Sequence[str]) -> list[tuple[str, Path]]:
    """(name, path) of each file meant by the given files and folders, each once, in a fixed order."""
    found: dict[Path, str] = {}
    for root in map(Path, text):
        if root.is_dir():
            listed = [(name, path) for name, path in walk(root) if is_text(path)]
            if not listed:
                raise LabError(f"{root}: no text files in this folder")
        elif root.is_file():
            listed = [(root.name, root)]
        elif root.exists():
            raise LabError(f"{root}: neither a file nor a folder")
        else:
            raise LabError(f"{root}: no such file or folder")
        for name, path in listed:
            found.setdefault(path.resolve(), name)
    return [(name, path) for path, name in found.items()]


def walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Files under `root`, sorted, without hidden ones, caches and installed packages."""
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(d for d in inner if not d.startswith(".") and d not in SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(root).as_posix(), path


SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "node_modules"}


def is_text(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return b"\0" not in file.read(4096)
    except OSError as error:
        raise LabError(f"{path}: cannot be read ({error.strerror})") from None
