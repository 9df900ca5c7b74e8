"""One shard: the documents of a few units, tokenised and divided into a part to train on and one held out."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from streammix.lab.data.codec import Codec
from streammix.lab.data.documents import Unit, documents, kind_of
from streammix.lab.files import naming, new_folder, write_durably
from streammix.lab.text.shards import PARTS, SHARD, dtype_of

EVERY = 20  # one block in so many is held out
BATCH = 64  # blocks tokenised at once

Block = tuple[str, str]  # "train" or "val", text; no text ends a piece


def write_shard(folder: Path, units: Sequence[Unit], codec: Codec, block: int) -> dict[str, Any]:
    """Write the units' shard as a new folder, whole or not at all, and return its entry of the index.

    Args:
        block: about how many characters are held out together; see `divided`.
    """
    with new_folder(folder) as scratch:
        parts = {part: PartFile(scratch / f"{part}.bin", dtype_of(codec.vocabulary)) for part in PARTS}
        pieces = (piece for unit in units for piece in divided(unit, block))
        while batch := list(islice(pieces, BATCH)):
            texts = [text for _, text in batch]
            for (part, text), tokens in zip(batch, codec.encode(texts)):
                if text:
                    parts[part].write(tokens, len(text.encode()))
                elif codec.separator is not None:
                    parts[part].write(np.array([codec.separator]), 0)
        source = units[0].name + (f" and {len(units) - 1} more" if len(units) > 1 else "")
        entry = {"name": folder.name, "source": source} | {part: file.end() for part, file in parts.items()}
        write_durably(scratch / SHARD, (json.dumps(entry, indent=2) + "\n").encode())
    return entry


def divided(unit: Unit, size: int) -> Iterator[Block]:
    """Blocks of a unit, each for one of the two parts; an empty one ends a piece of text.

    A document of up to `size` characters is a block, a longer one several, of whole lines where lines are short. Every
    20th block is held out; a hash of the unit says which is the first.
    """
    number = int(hashlib.sha256(f"{unit.name} {unit.first}".encode()).hexdigest(), 16) % EVERY
    goes_on = unit.dataset is None and kind_of(Path(unit.path))[0] == "text" and not unit.ends
    for lines in documents(unit):
        before = ""
        for text in blocks(lines, size):
            part = "val" if number % EVERY == 0 else "train"
            if before not in ("", part):
                yield before, ""
            yield part, text
            before, number = part, number + 1
        if before and not goes_on:
            yield before, ""


def blocks(lines: Iterator[str], size: int) -> Iterator[str]:
    """A document in blocks of about `size` characters."""
    held: list[str] = []
    length = 0
    for line in lines:
        for first in range(0, len(line), size):
            held.append(line[first : first + size])
            length += len(held[-1])
            if length >= size:
                yield "".join(held)
                held, length = [], 0
    if held:
        yield "".join(held)


class PartFile:
    """A file of tokens that is being written; counts and hashes what it is given."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype = path, np.dtype(dtype).newbyteorder("<")
        self.digest, self.tokens, self.bytes = hashlib.sha256(), 0, 0
        self.file = open(path, "wb")  # noqa: SIM115

    def write(self, tokens: np.ndarray, size: int) -> None:
        content = tokens.astype(self.dtype).tobytes()
        with naming(self.path):
            self.file.write(content)
        self.digest.update(content)
        self.tokens, self.bytes = self.tokens + len(tokens), self.bytes + size

    def end(self) -> dict[str, Any]:
        with naming(self.path), self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
        return {"tokens": self.tokens, "bytes": self.bytes, "sha256": self.digest.hexdigest()}
