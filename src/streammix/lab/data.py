"""Text as bytes: found, split, cached as two memory-mapped files, and cut into windows."""

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.files import clear_scratch, locked, new_folder, private, write_durably

VOCABULARY = 256
HELD_OUT = 0.05  # of the text's bytes
CACHE_FORMAT = 1


@dataclass(frozen=True)
class Corpus:
    """A text in two parts. `train` and `val` are read-only uint8 maps; each source file ends with a zero byte."""

    train: np.ndarray
    val: np.ndarray
    source: str
    files: int
    held_out: str  # how `val` was chosen, for people
    sha256: str  # of train, then val

    def describe(self) -> dict[str, str | int]:
        """What a report says about the data."""
        return {
            "source": self.source,
            "files": self.files,
            "held_out": self.held_out,
            "train_bytes": len(self.train),
            "val_bytes": len(self.val),
            "sha256": self.sha256,
        }


def load(text: Sequence[str] = ()) -> Corpus:
    """The corpus in the given files and folders, by default Python's own standard library sources.

    Folders are walked for text files (those without a zero byte near their start). The byte files are made once
    and kept in a cache (STREAMMIX_CACHE, else XDG_CACHE_HOME/streammix, else ~/.cache/streammix), which is made
    anew when a source file's path, size or time of change differs.

    Raises:
        LabError: a path is missing, unreadable or not a file; the text is empty.
    """
    files = find_files(text) if text else find_standard_library()
    source = shown(", ".join(text)) if text else "Python standard library"
    stats = [(name, path, path.stat()) for name, path in files]
    sizes = [status.st_size for _, _, status in stats]
    if sum(sizes) < 2:
        raise LabError(f"the text is {'one byte long' if sum(sizes) else 'empty'}: {source}")

    key = json.dumps([CACHE_FORMAT, [(name, str(path), s.st_size, s.st_mtime_ns) for name, path, s in stats]])
    folder = cache_folder() / f"text-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    found = open_cache(folder)
    if found is None:
        pieces, held_out = split(files, sizes)
        about: dict[str, str | int] = {"source": source, "files": len(files), "held_out": held_out}
        found = make_cache(folder, pieces, about)
    return found


def shown(name: str) -> str:
    """A file's name as it can be printed: bytes of it that are no UTF-8 become question marks."""
    return os.fsencode(name).decode(errors="replace")


def require_length(corpus: Corpus, context: int) -> None:
    """Raise LabError unless both parts hold a window: `context` bytes and the one that follows."""
    if min(len(corpus.train), len(corpus.val)) <= context:
        raise LabError(
            f"the text is too short: {len(corpus.train)} bytes to train on and {len(corpus.val)} held out; "
            f"--context {context} needs at least {context + 1} in each"
        )


# --- finding ----------------------------------------------------------------------------------------------------


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


# --- splitting --------------------------------------------------------------------------------------------------

Piece = tuple[Path, int, int, str]  # file, first byte, last byte + 1, "train" or "val"


def split(files: Sequence[tuple[str, Path]], sizes: Sequence[int]) -> tuple[list[Piece], str]:
    """Hold out whole files, in the order of a hash of their names, until they make up 5 % of the bytes.

    The largest file always trains, and files that would take the held-out part past twice its share are passed
    over. Where whole files cannot make 1 % (a single file, say), the last 5 % of the text is held out instead.
    """
    total = sum(sizes)
    chosen: set[int] = set()
    held = 0
    largest = max(range(len(files)), key=sizes.__getitem__)
    for i in sorted(range(len(files)), key=lambda i: hashlib.sha256(os.fsencode(files[i][0])).digest()):
        if held < HELD_OUT * total and i != largest and held + sizes[i] <= 2 * HELD_OUT * total:
            chosen.add(i)
            held += sizes[i]
    if held >= 0.01 * total:
        pieces = [(path, 0, sizes[i], "val" if i in chosen else "train") for i, (_, path) in enumerate(files)]
        return pieces, f"{len(chosen)} of {len(files)} files"

    pieces, start, cut = [], 0, total - max(1, round(HELD_OUT * total))
    for (_, path), size in zip(files, sizes):
        middle = min(max(cut - start, 0), size)
        pieces += [(path, 0, middle, "train"), (path, middle, size, "val")]
        start += size
    pieces = [piece for piece in pieces if piece[1] < piece[2]]
    return pieces, "the last 5 % of the text (too few files to hold out whole ones)"


# --- caching ----------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    if own := os.environ.get("STREAMMIX_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streammix"


def make_cache(folder: Path, pieces: Sequence[Piece], about: dict[str, str | int]) -> Corpus:
    """The corpus of these pieces, written to the cache unless another process has just done so.

    One process at a time writes to the cache: all share its folder, and whoever holds its lock clears what others that
    were killed left there.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder.parent / ".lock", wait=True):
            found = open_cache(folder)
            if found is None:
                clear_scratch(folder.parent)
                write_cache(folder, pieces, about)
                found = open_cache(folder)
    except OSError as error:
        raise LabError(
            f"{folder}: the text cannot be cached here ({error.strerror or error}); set STREAMMIX_CACHE to another"
            " folder"
        ) from None
    if found is None:
        raise LabError(f"{folder}: the cache just written cannot be read back")
    return found


def write_cache(folder: Path, pieces: Sequence[Piece], about: dict[str, str | int]) -> None:
    """Copy the pieces into train.bin and val.bin, with meta.json, as one new folder, for the user alone to read."""
    with new_folder(folder) as scratch:
        scratch.chmod(0o700)
        digest = hashlib.sha256()
        sizes = {part: copy_pieces(scratch / f"{part}.bin", pieces, part, digest) for part in ("train", "val")}
        meta = {**about, "sizes": sizes, "sha256": digest.hexdigest()}
        write_durably(scratch / "meta.json", json.dumps(meta, indent=2).encode(), opener=private)


def copy_pieces(target: Path, pieces: Sequence[Piece], part: str, digest: "hashlib._Hash") -> int:
    """Write the pieces of one part to `target`, feeding `digest`; return the bytes written."""
    written = 0
    with open(target, "wb", opener=private) as output:
        for path, start, stop, belongs in pieces:
            if belongs != part:
                continue
            for block in (*read_blocks(path, start, stop), b"\0"):
                output.write(block)
                digest.update(block)
                written += len(block)
        output.flush()
        os.fsync(output.fileno())
    return written


def read_blocks(path: Path, start: int, stop: int) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            while start < stop:
                block = file.read(min(stop - start, 1 << 20))
                if not block:
                    raise LabError(f"{path}: grew shorter while it was being read")
                start += len(block)
                yield block
    except OSError as error:
        raise LabError(f"{path}: cannot be read ({error.strerror})") from None


def open_cache(folder: Path) -> Corpus | None:
    """The corpus in a cache folder, or None where there is none or it is damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        sizes = meta.pop("sizes")
        if any((folder / f"{part}.bin").stat().st_size != size for part, size in sizes.items()):
            return None
        train, val = (np.memmap(folder / f"{part}.bin", np.uint8, "r") for part in ("train", "val"))
        if sha256_of(train, val) != meta["sha256"]:
            return None
        return Corpus(train, val, **meta)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sha256_of(*parts: np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for start in range(0, len(part), 1 << 24):
            digest.update(part[start : start + (1 << 24)].data)
    return digest.hexdigest()


# --- windows ----------------------------------------------------------------------------------------------------

Windows = tuple[Int64[Tensor, "batch context"], Int64[Tensor, "batch context"]]


def windows(tokens: np.ndarray, starts: np.ndarray, context: int) -> Windows:
    """Inputs and targets (the same, one byte later) of the windows that begin at `starts`."""
    cut = torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))
    return cut[:, :-1], cut[:, 1:]


def train_batch(corpus: Corpus, config: Config, step: int) -> Windows:
    """The batch of a step: a function of (seed, step) alone, so that resuming needs no sampler state."""
    generator = np.random.default_rng([config.seed & (2**64 - 1), step])
    starts = generator.integers(len(corpus.train) - config.context, size=config.batch)
    return windows(corpus.train, starts, config.context)


def val_batches(corpus: Corpus, config: Config) -> Iterator[Windows]:
    """The same held-out windows every time: evenly spread, without overlap, at most eval_batches of them."""
    fitting = (len(corpus.val) - 1) // config.context
    count = min(config.eval_batches * config.batch, fitting)
    starts = np.linspace(0, len(corpus.val) - config.context - 1, count).astype(np.int64)
    for first in range(0, count, config.batch):
        yield windows(corpus.val, starts[first : first + config.batch], config.context)
