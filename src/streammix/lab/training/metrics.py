"""A run's measurements: one JSON object a line in metrics.jsonl, and the same for TensorBoard."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from streammix.lab.files import append, open_own, replace_file
from streammix.lab.training.board import Board

NAME = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Every complete record of a run, in order: {"step", "kind": "train" | "val", "loss", ...}; damaged ones are left
    out."""
    return [record for line in lines_of(run / NAME) if (record := as_record(line)) is not None]


def damaged_lines(run: Path) -> int:
    """How many complete lines of a run's measurements are no records."""
    return sum(as_record(line) is None for line in lines_of(run / NAME))


def lines_of(path: Path) -> list[bytes]:
    """Every line that an interruption did not leave unfinished."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def as_record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None where it is damaged."""
    try:
        record = json.loads(line)
        if record["kind"] not in ("train", "val") or type(record["step"]) is not int:
            return None
        values = [value for name, value in record.items() if name != "kind"]
        return record if all(type(value) in (int, float) and abs(value) < 1e300 for value in values) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


class Metrics:
    """Appends records; opening it forgets those after `step`, which the resumed run will write again.

    Attributes:
        damaged: how many lines of the file were no records, and were dropped.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / NAME
        # Unbuffered: a record is the operating system's as soon as write() returns, and survives SIGKILL.
        self.file = open_own(self.path, os.O_WRONLY | os.O_APPEND)
        lines = lines_of(self.path)
        records = [(line, as_record(line)) for line in lines]
        self.damaged = sum(record is None for _, record in records)
        kept = [line for line, record in records if record is not None and record["step"] <= step] if step else []
        if lines[: len(kept)] == kept:
            os.truncate(self.file.fileno(), sum(map(len, kept)))
        else:  # something before the end is damaged
            self.file.close()
            replace_file(self.path, b"".join(kept))
            self.file = open_own(self.path, os.O_WRONLY | os.O_APPEND)
        self.board = Board(run / "tensorboard", first=step + 1 if step else 0)

    def write(self, step: int, kind: str, **values: float) -> None:
        """Append one record; a disk that fills up in the middle of it leaves the file as it was."""
        append(self.file, self.path, json.dumps({"step": step, "kind": kind, **values}).encode() + b"\n")
        for name, value in values.items():
            self.board.add(step, f"{name}/{kind}", value)

    def sync(self) -> None:
        """Wait until the disk has every record so far."""
        os.fsync(self.file.fileno())

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.board.close()
