"""Making a folder of data shards with several processes; what is finished is never made again."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from streammix.lab.data.codec import BYTES, Codec, codec
from streammix.lab.data.documents import PACKED, Unit, kind_of, streamed, units_of
from streammix.lab.data.shard import EVERY, write_shard
from streammix.lab.errors import LabError
from streammix.lab.files import clear_scratch, discard_folder, locked, read_json, replace_file, write_json
from streammix.lab.text.cache import Corpus
from streammix.lab.text.corpus import shown
from streammix.lab.text.finding import is_text, walk
from streammix.lab.text.shards import (
    FORMAT,
    INDEX,
    PARTS,
    SETTINGS,
    SHARD,
    SHARDS,
    TOKENIZER,
    dtype_of,
    hash_of,
    open_folder,
)
from streammix.lab.text.tokens import require_size

LARGEST_BLOCK, SMALLEST_BLOCK, BLOCKS = 1 << 16, 1 << 10, 200  # characters, and how many of them at least
LARGEST_SHARD, SMALLEST_SHARD, SHARES = 64 << 20, 1 << 20, 16  # bytes of text, and how many of them at least


def make_shards(
    files: Sequence[Path],
    out: Path,
    *,
    tokenizer: str = BYTES,
    separator: str | None = None,
    field: str = "text",
    dataset: str | None = None,
    dataset_options: dict[str, Any] | None = None,
    workers: int = 1,
    tell: Callable[[str], None] = print,
) -> Corpus:
    """Tokenise text into the folder `out`, and open it. See `streammix.lab.data` for what the folder holds.

    Args:
        files: text, JSON lines (.jsonl) and Parquet, also .gz and .zst, and folders of these.
        tokenizer: "bytes", or a tokenizer.json file.
        separator: the token that ends a piece of text; by default one that the tokenizer has.
        field: where JSON lines, Parquet and data sets have the text.
        dataset: what `datasets.load_dataset` takes, with `dataset_options`, besides the files; it is streamed.
        workers: processes.
        tell: is given a line when a shard is finished.

    Raises:
        LabError: something is no text, or is not accepted; names it. Finished shards are kept, others leave nothing.
        KeyboardInterrupt: Ctrl-C; the same.
    """
    if workers < 1:
        raise LabError(f"--workers is {workers}; accepted: integers >= 1")
    chosen = codec(tokenizer, separator)
    found = [path for root in files for path in found_in(root)]
    total = sum(path.stat().st_size for path in found)
    largest = min(max(total // SHARES, SMALLEST_SHARD), LARGEST_SHARD)
    groups = list(grouped((unit for path in dict.fromkeys(found) for unit in units_of(path, field, largest)), largest))
    if dataset is not None:
        options = tuple(sorted((dataset_options or {}).items()))
        count = streamed(dataset, dict(options)).num_shards
        groups += [(Unit(dataset, number, count, field, dataset=options),) for number in range(count)]
    if not groups:
        raise LabError("no text: the files named hold nothing")
    # So large that a short text has 200 blocks, of which some are held out.
    block = LARGEST_BLOCK if dataset else min(max(total // BLOCKS, SMALLEST_BLOCK), LARGEST_BLOCK)
    settings = {"format": FORMAT, "tokenizer": chosen.describe(), "field": field, "block": block}
    if out.exists() and not out.is_dir():
        raise LabError(f"{out}: is a file; --out must be a folder")
    if out.exists() and not (out / SETTINGS).exists() and any(not p.name.startswith(".") for p in out.iterdir()):
        raise LabError(f"{out}: the folder is not empty and holds no data; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", wait=False) as held:
        if not held:
            raise LabError(f"{out}: another process is making data here")
        prepare(out, settings, tokenizer)
        named = {shard_name(number, units, block): units for number, units in enumerate(groups)}
        entries = work(out, named, tokenizer, separator, block, workers, tell)
        write_index(out, chosen, [entries[name] for name in named], found, dataset)
    return open_folder(out)


def found_in(root: Path) -> Iterator[Path]:
    """The files meant by a file or a folder, each of a kind that can be read."""
    if root.is_dir():
        inside = [path for _, path in walk(root) if kind_of(path) != ("text", "") or is_text(path)]
        if not inside:
            raise LabError(f"{root}: no text in this folder")
        yield from inside
    elif not root.is_file():
        raise LabError(f"{root}: no such file or folder")
    else:
        if kind_of(root) == ("text", "") and not is_text(root):
            raise LabError(f"{root}: not text; accepted: text, .jsonl, .parquet, and those as {', '.join(PACKED)}")
        yield root


def grouped(units: Iterator[Unit], largest: int) -> Iterator[tuple[Unit, ...]]:
    """Units in turn, small ones together."""
    group: list[Unit] = []
    for unit in units:
        if group and sum(one.last - one.first for one in (*group, unit)) > largest:
            yield tuple(group)
            group = []
        group.append(unit)
    if group:
        yield tuple(group)


def shard_name(number: int, units: Sequence[Unit], block: int) -> str:
    """A name that is another one when a file changes."""
    key = json.dumps([[asdict(unit) for unit in units], stamps(units), block], sort_keys=True)
    return f"{number:05d}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def stamps(units: Sequence[Unit]) -> list[tuple[int, int]]:
    """Size and time of change of every file."""
    status = [os.stat(unit.path) for unit in units if unit.dataset is None]
    return [(one.st_size, one.st_mtime_ns) for one in status]


def prepare(out: Path, settings: dict[str, Any], tokenizer: str) -> None:
    """Make `out` a folder of shards by these rules, or raise LabError having changed nothing."""
    if (out / SETTINGS).exists():
        there = read_json(out / SETTINGS)
        if there != settings:
            differ = [f"{name} {settings.get(name)} (there: {there.get(name)})" for name in settings]
            differ = [text for name, text in zip(settings, differ) if settings.get(name) != there.get(name)]
            raise LabError(f"{out}: holds shards made otherwise: {'; '.join(differ)}; choose another --out")
    else:
        if tokenizer != BYTES:
            replace_file(out / TOKENIZER, Path(tokenizer).read_bytes())
        write_json(out / SETTINGS, settings)
    (out / SHARDS).mkdir(exist_ok=True)
    clear_scratch(out)
    clear_scratch(out / SHARDS)


def work(
    out: Path,
    named: dict[str, tuple[Unit, ...]],
    tokenizer: str,
    separator: str | None,
    block: int,
    workers: int,
    tell: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """The entry of every shard, made now where it is not there yet."""
    width = np.dtype(dtype_of(codec(tokenizer, separator).vocabulary)).itemsize
    entries = {name: entry for name in named if (entry := finished(out / SHARDS / name, width)) is not None}
    missing = [name for name in named if name not in entries]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, context, initializer=begin, initargs=(tokenizer, separator))
    try:
        tasks = [pool.submit(make, out / SHARDS / name, named[name], block) for name in missing]
        left: set[Future[dict[str, Any]]] = set(tasks)
        while left:
            ended, left = wait(left, return_when=FIRST_COMPLETED)
            for task in ended:
                entry = task.result()
                entries[entry["name"]] = entry
                tell(f"{len(entries)}/{len(named)}  {entry['source']}: {entry['train']['tokens']:,} tokens")
    except BrokenProcessPool:
        raise LabError("a worker was ended from outside (out of memory?); the same command goes on") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return entries


def finished(folder: Path, width: int) -> dict[str, Any] | None:
    """The entry of a shard that is there and whole, its tokens being `width` bytes wide."""
    try:
        entry: dict[str, Any] = read_json(folder / SHARD)
        for part in PARTS:
            require_size(folder / f"{part}.bin", entry[part]["tokens"] * width)
    except (LabError, KeyError, TypeError):
        return None
    return entry


_CODEC: list[Codec] = []


def begin(tokenizer: str, separator: str | None) -> None:
    """What every process does once."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to the parent, which lets shards under way end
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for every core already
    _CODEC[:] = [codec(tokenizer, separator)]


def make(folder: Path, units: tuple[Unit, ...], block: int) -> dict[str, Any]:
    before = stamps(units)
    entry = write_shard(folder, units, _CODEC[0], block)
    if stamps(units) != before:
        discard_folder(folder)
        raise LabError(f"{units[0].path}: this file, or one read with it, was changed while it was being read")
    return entry


def write_index(
    out: Path, chosen: Codec, entries: list[dict[str, Any]], files: Sequence[Path], dataset: str | None
) -> None:
    names = [shown(path.name) for path in dict.fromkeys(files)] + ([dataset] if dataset else [])
    source = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    index = {
        "format": FORMAT,
        "source": source,
        "files": len(names),
        "held_out": f"every {EVERY}th block of text",
        "tokenizer": chosen.describe(),
        "vocabulary": chosen.vocabulary,
        "dtype": dtype_of(chosen.vocabulary),
        "shards": entries,
    }
    for part in PARTS:
        if not sum(entry[part]["tokens"] for entry in entries):
            raise LabError(f"{out}: the text is too short: nothing of it is {'held out' if part == 'val' else 'left'}")
    write_json(out / INDEX, index | {"sha256": hash_of(index)})
