"""A run's measurements: one JSON object a line in metrics.jsonl, and the same for TensorBoard."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from streammix.lab.board import Board
from streammix.lab.files import naming

NAME = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Every complete record of a run, in order: {"step", "kind": "train" | "val", "loss", ...}."""
    return [record for _, record in complete_records(run / NAME)]


def complete_records(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(offset of the line's end, record) up to the first line that an interruption left unfinished."""
    records, end = [], 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        end += len(line)
        if not line.endswith(b"\n"):
            break
        records.append((end, json.loads(line)))
    return records


class Metrics:
    """Appends records; opening it forgets those after `step`, which the resumed run will write again."""

    def __init__(self, run: Path, step: int) -> None:
        self.path = run / NAME
        kept = [end for end, record in complete_records(self.path) if record["step"] <= step] if step else []
        if self.path.exists():
            os.truncate(self.path, kept[-1] if kept else 0)
        # Unbuffered: a record is the operating system's as soon as write() returns, and survives SIGKILL.
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self.board = Board(run / "tensorboard", first=step + 1 if step else 0)

    def write(self, step: int, kind: str, **values: float) -> None:
        """Append one record; a disk that fills up in the middle of it leaves the file as it was."""
        line = json.dumps({"step": step, "kind": kind, **values}).encode() + b"\n"
        before = os.fstat(self.file.fileno()).st_size
        try:
            with naming(self.path):
                while line:
                    line = line[self.file.write(line) :]
        except OSError:
            os.truncate(self.file.fileno(), before)
            raise
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
