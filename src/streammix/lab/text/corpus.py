"""The text that a command names, as bytes to train on and bytes held out."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.text.cache import Corpus, cache_folder, make_cache, open_cache
from streammix.lab.text.finding import find_files, find_standard_library
from streammix.lab.text.shards import is_data_folder, open_folder
from streammix.lab.text.splitting import split

CACHE_FORMAT = 1


def load(text: Sequence[str] = ()) -> Corpus:
    """The corpus in the given files and folders, by default Python's own standard library sources; or in one folder of
    data shards, which `streammix data` has made.

    Folders are walked for text files (those without a zero byte near their start). The byte files are made once
    and kept in a cache (STREAMMIX_CACHE, else XDG_CACHE_HOME/streammix, else ~/.cache/streammix), which is made
    anew when a source file's path, size or time of change differs.

    Raises:
        LabError: a path is missing, unreadable or not a file; the text is empty.
    """
    for path in map(Path, text):
        if is_data_folder(path):
            if len(text) > 1:
                raise LabError(f"{path}: is a folder of data shards; accepted: such a folder alone, or text")
            return open_folder(path)
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


def with_vocabulary(config: Config, corpus: Corpus) -> Config:
    """The config with the text's vocabulary where it says none; a text of bytes leaves None, which means 256.

    Raises:
        LabError: it says one that the text does not have.
    """
    if config.vocabulary is None:
        return config if corpus.vocabulary == 256 else dataclasses.replace(config, vocabulary=corpus.vocabulary)
    if config.vocabulary < corpus.vocabulary:
        raise LabError(
            f"--vocabulary is {config.vocabulary}; accepted: {corpus.vocabulary}, which the text has, or more"
        )
    return config


def require_length(corpus: Corpus, context: int) -> None:
    """Raise LabError unless both parts hold a window: `context` tokens and the one that follows."""
    if min(len(corpus.train), len(corpus.val)) <= context:
        unit = "bytes" if corpus.bytes is None else "tokens"
        raise LabError(
            f"the text is too short: {len(corpus.train)} {unit} to train on and {len(corpus.val)} held out; "
            f"--context {context} needs at least {context + 1} in each"
        )
