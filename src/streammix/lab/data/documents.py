"""Documents out of files: text, JSON lines and Parquet, also compressed, and data sets of the package datasets."""

import contextlib
import gzip
import importlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from streammix.lab.errors import LabError

JSON_LINES, PARQUET, PACKED = (".jsonl", ".ndjson"), (".parquet",), (".gz", ".zst")


@dataclass(frozen=True)
class Unit:
    """A piece of work: a file or the lines of it that begin in a range of its bytes, or a shard of a data set.

    path: of the file; of a data set, what load_dataset takes.
    first, last: the range; of a data set, the shard's number and how many there are.
    field: where JSON lines, Parquet and data sets have the text.
    ends: whether the file ends with the range, and with it the document that a text file is.
    dataset: None for a file; else load_dataset's further arguments.
    """

    path: str
    first: int
    last: int
    field: str
    ends: bool = True
    dataset: tuple[tuple[str, Any], ...] | None = None

    @property
    def name(self) -> str:
        return Path(self.path).name


def kind_of(path: Path) -> tuple[str, str]:
    """("text" | "jsonl" | "parquet", compression: "", ".gz" or ".zst") by the file's name."""
    packed = path.suffix if path.suffix in PACKED else ""
    inner = Path(path.stem).suffix if packed else path.suffix
    return ("jsonl" if inner in JSON_LINES else "parquet" if inner in PARQUET else "text"), packed


def units_of(path: Path, field: str, largest: int) -> Iterator[Unit]:
    """A file's units: ranges of `largest` bytes of one that is neither compressed nor Parquet."""
    kind, packed = kind_of(path)
    size = path.stat().st_size
    if kind == "parquet" or packed:
        yield Unit(str(path), 0, size, field)
    else:
        for first in range(0, size, largest):
            yield Unit(str(path), first, min(first + largest, size), field, ends=first + largest >= size)


def documents(unit: Unit) -> Iterator[Iterator[str]]:
    """The unit's documents, each a sequence of lines or a single text.

    Raises:
        LabError: the file is not what its name says, or not text; a package is missing.
    """
    if unit.dataset is not None:
        yield from (iter((text,)) for text in of_dataset(unit))
        return
    path = Path(unit.path)
    kind, packed = kind_of(path)
    if kind == "parquet":
        yield from (iter((text,)) for text in of_parquet(path, unit.field, packed))
    elif kind == "jsonl":
        for number, line in numbered_lines(unit, path, packed):
            if line.strip():
                yield iter((of_json(line, unit.field, f"{path}, {number}"),))
    else:
        yield (as_text(line, f"{path}, {number}") for number, line in numbered_lines(unit, path, packed))


def numbered_lines(unit: Unit, path: Path, packed: str) -> Iterator[tuple[str, bytes]]:
    """Lines that begin in the unit's range, each with words for where it is."""
    with reading(path, packed) as file:
        if packed:
            yield from ((f"line {number}", line) for number, line in enumerate(file, start=1))
            return
        if unit.first:
            file.seek(unit.first - 1)
            file.readline()  # the end of a line that began before, or the line feed just before the range
        while (at := file.tell()) < unit.last and (line := file.readline()):
            yield f"byte {at}", line


@contextlib.contextmanager
def reading(path: Path, packed: str) -> Iterator[BinaryIO]:
    """The file's content, decompressed; errors of the compression name the file."""
    try:
        with open(path, "rb") as raw:
            if packed == ".gz":
                yield cast("BinaryIO", gzip.GzipFile(fileobj=raw))
            elif packed == ".zst":
                yield cast("BinaryIO", io.BufferedReader(Frames(raw), 1 << 20))
            else:
                yield raw
    except (EOFError, gzip.BadGzipFile) as error:
        raise LabError(f"{path}: not whole {packed[1:]} data ({error})") from None
    except OSError as error:
        raise LabError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:
        if type(error).__module__.startswith(("zstd", "zlib")) or type(error).__name__ in ("ZstdError", "error"):
            raise LabError(f"{path}: not whole {packed[1:]} data ({error})") from None
        raise


class Frames(io.RawIOBase):
    """Zstandard frames, decompressed; the package's own reader takes a file that is cut for one that ends.

    Raises:
        EOFError: the last frame is not whole.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.make = raw, needed("zstandard").ZstdDecompressor().decompressobj
        self.frame: Any = None
        self.rest, self.ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            self.rest = self.rest or self.raw.read(1 << 20)
            if not self.rest:
                if self.frame is not None:
                    raise EOFError("the last frame is cut")
                return 0
            self.frame = self.frame or self.make()
            self.ready, self.rest = memoryview(self.frame.decompress(self.rest)), b""
            if self.frame.eof:
                self.rest, self.frame = self.frame.unused_data, None
        count = min(len(buffer), len(self.ready))
        buffer[:count], self.ready = self.ready[:count], self.ready[count:]
        return count


def of_json(line: bytes, field: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise LabError(f"{where}: not valid JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get(field), str):
        names = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise LabError(f"{where}: no text under {field!r} (there: {names}); --field names another")
    return checked_text(value[field], where)


def of_parquet(path: Path, field: str, packed: str) -> Iterator[str]:
    if packed:
        raise LabError(f"{path}: Parquet compresses itself; accepted: .parquet")
    pyarrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
        if field not in file.schema_arrow.names:
            names = ", ".join(file.schema_arrow.names)
            raise LabError(f"{path}: no column {field!r} (there: {names}); --field names another")
        for number, batch in enumerate(file.iter_batches(batch_size=256, columns=[field])):
            for text in batch.column(0).to_pylist():
                if text is not None and not isinstance(text, str):
                    raise LabError(f"{path}: column {field!r} holds {type(text).__name__}; accepted: text")
                if text:
                    yield checked_text(text, f"{path}, batch {number}")
    except pyarrow.ArrowInvalid as error:
        raise LabError(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]})") from None


def of_dataset(unit: Unit) -> Iterator[str]:
    """One shard of a data set, streamed."""
    for number, row in enumerate(streamed(unit.path, dict(unit.dataset or ())).shard(unit.last, unit.first)):
        text = row.get(unit.field)
        if not isinstance(text, str):
            raise LabError(
                f"{unit.path}, row {number}: no text under {unit.field!r} (there: {', '.join(row)}); --field"
            )
        yield checked_text(text, f"{unit.path}, row {number}")


def streamed(path: str, options: dict[str, Any]) -> Any:
    """The data set as a stream, or LabError where there is none."""
    datasets = needed("datasets")
    try:
        return datasets.load_dataset(path, streaming=True, **options)
    except Exception as error:  # of many kinds, from many packages
        raise LabError(f"{path}: datasets cannot load it ({' '.join(str(error).split())[:200]})") from None


def as_text(line: bytes, where: str) -> str:
    try:
        return checked_text(line.decode(), where)
    except UnicodeDecodeError:
        raise LabError(f"{where}: not text (no UTF-8)") from None


def checked_text(text: str, where: str) -> str:
    if "\0" in text:
        raise LabError(f"{where}: not text (a zero byte)")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LabError(f"{where}: not text (half of a surrogate pair)") from None
    return text


def needed(package: str) -> Any:
    """A package of the extra, or LabError with what to install."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise LabError(f"this needs {package.partition('.')[0]}: pip install 'streammix[data]'") from None
