"""A text as two files, made once and kept where only the user can read them."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from streammix.lab.errors import LabError
from streammix.lab.files import clear_scratch, locked, new_folder, private, write_durably
from streammix.lab.text.splitting import Piece
from streammix.lab.text.tokens import Tokens


@dataclass(frozen=True)
class Corpus:
    """A text in two parts; where tokens are bytes, each source file ends with a zero byte.

    held_out: how `val` was chosen, for people.
    sha256: of train, then val; of data shards, that of their index.
    vocabulary: how many tokens there are.
    bytes: how many bytes of text `train` and `val` stand for; None where tokens are bytes.
    tokenizer: the tokenizers file by which tokens were made; None where they are bytes.
    """

    train: Tokens
    val: Tokens
    source: str
    files: int
    held_out: str
    sha256: str
    vocabulary: int = 256
    bytes: tuple[int, int] | None = None
    tokenizer: Path | None = None

    @property
    def tokens_per_byte(self) -> float:
        """Of the held-out text: what turns a loss in nats a token into nats a byte."""
        return 1.0 if self.bytes is None else len(self.val) / self.bytes[1]

    def describe(self) -> dict[str, str | int]:
        """What a report says about the data."""
        train, val = self.bytes or (len(self.train), len(self.val))
        about: dict[str, str | int] = {"source": self.source, "files": self.files, "held_out": self.held_out}
        about |= {"train_bytes": train, "val_bytes": val, "sha256": self.sha256}
        tokens: dict[str, str | int] = {
            "vocabulary": self.vocabulary,
            "train_tokens": len(self.train),
            "val_tokens": len(self.val),
        }
        return about if self.bytes is None else about | tokens


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
        train, val = (Tokens([(folder / f"{part}.bin", sizes[part])]) for part in ("train", "val"))
        if sha256_of(train, val) != meta["sha256"]:
            return None
        return Corpus(train, val, **meta)
    except (LabError, OSError, ValueError, KeyError, TypeError):
        return None


def sha256_of(*parts: Tokens) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for start in range(0, len(part), 1 << 24):
            digest.update(part[start : start + (1 << 24)].data)
    return digest.hexdigest()
