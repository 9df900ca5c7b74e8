"""Which bytes of a text are held out."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

HELD_OUT = 0.05  # of the text's bytes

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
