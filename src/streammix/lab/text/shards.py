"""Reading a folder of data shards (see `streammix.lab.data`), and believing nothing of it unseen."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streammix.lab.errors import LabError
from streammix.lab.files import read_json, write_json
from streammix.lab.text.cache import Corpus, cache_folder
from streammix.lab.text.tokens import Tokens, require_size

FORMAT = 1
INDEX, SETTINGS, TOKENIZER, SHARDS, SHARD = "index.json", "settings.json", "tokenizer.json", "shards", "shard.json"
PARTS = ("train", "val")
DTYPES = ("uint8", "uint16", "uint32")


def dtype_of(vocabulary: int) -> str:
    """The narrowest dtype that holds every token."""
    return next(name for name in DTYPES if vocabulary - 1 <= np.iinfo(name).max)


def is_data_folder(path: Path) -> bool:
    """Whether `path` is a folder of data shards, finished or not."""
    return (path / INDEX).is_file() or ((path / SETTINGS).is_file() and (path / SHARDS).is_dir())


def open_folder(folder: Path, *, verify: bool = False) -> Corpus:
    """The data in a folder.

    The size of every file is compared with the index each time. Contents are compared with their hashes the first time
    that this user's machine opens them, and again when a file's size or time of change differs, or with `verify`.

    Raises:
        LabError: the data are unfinished, a file is missing or is not what was written, or the index is damaged.
    """
    if not (folder / INDEX).exists():
        raise LabError(f"{folder}: these data are not finished ({INDEX} is missing); the same `streammix data` goes on")
    index = read_index(folder / INDEX)
    files = list(files_of(folder, index))
    for path, entry in files:
        require_size(path, entry["tokens"] * np.dtype(index["dtype"]).itemsize)
    verify_once(folder, index, files, again=verify)
    counts = {part: [(path, e["tokens"]) for path, e in files if path.stem == part] for part in PARTS}
    train, val = (Tokens(counts[part], index["dtype"]) for part in PARTS)
    sizes = tuple(sum(shard[part]["bytes"] for shard in index["shards"]) for part in PARTS)
    return Corpus(
        train,
        val,
        source=index["source"],
        files=index["files"],
        held_out=index["held_out"],
        sha256=index["sha256"],
        vocabulary=index["vocabulary"],
        bytes=(sizes[0], sizes[1]),
        tokenizer=folder / TOKENIZER if index["tokenizer"]["name"] != "bytes" else None,
    )


def read_index(path: Path) -> dict[str, Any]:
    """An index whose own hash agrees with its content."""
    index = read_json(path)
    try:
        if index["format"] != FORMAT:
            raise LabError(f"{path}: format is {index['format']!r}; this version reads {FORMAT}")
        if index["sha256"] != hash_of(index):
            raise LabError(f"{path}: is damaged (its content differs from what was written)")
    except (KeyError, TypeError):
        raise LabError(f"{path}: not the index of data shards") from None
    return index


def hash_of(index: Mapping[str, Any]) -> str:
    """The hash of all that an index says but its own hash; the hashes of all tokens are among it."""
    own = {name: value for name, value in index.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def files_of(folder: Path, index: Mapping[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file of tokens and what the index says of it."""
    for shard in index["shards"]:
        for part in PARTS:
            yield folder / SHARDS / shard["name"] / f"{part}.bin", shard[part]


def verify_once(
    folder: Path, index: Mapping[str, Any], files: list[tuple[Path, dict[str, Any]]], *, again: bool
) -> None:
    """Compare every file with its hash, unless that has been done since the files last changed."""
    stamps = [(str(path), status.st_size, status.st_mtime_ns) for path, _ in files for status in [path.stat()]]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), index["sha256"], stamps]).encode()).hexdigest()
    seen = cache_folder() / f"verified-{key[:16]}.json"
    if seen.exists() and not again:
        return
    for path, entry in files:
        if hash_file(path) != entry["sha256"]:
            raise LabError(f"{path}: is damaged (its content differs from what was written)")
    try:
        seen.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(seen, {"folder": str(folder), "sha256": index["sha256"]})
    except OSError as error:
        raise LabError(f"{seen}: cannot be written ({error.strerror}); set STREAMMIX_CACHE to another folder") from None


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
