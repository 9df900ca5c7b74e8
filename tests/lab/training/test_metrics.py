"""The metrics file, line by line."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from streammix.lab.training.board import Board
from streammix.lab.training.metrics import Metrics, read_metrics


def test_records_come_back_in_order(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(1, "train", loss=2.5, lr=0.1)
        metrics.write(1, "val", loss=2.25)
        assert len(read_metrics(tmp_path)) == 2  # readable while the run goes on
    assert read_metrics(tmp_path) == [
        {"step": 1, "kind": "train", "loss": 2.5, "lr": 0.1},
        {"step": 1, "kind": "val", "loss": 2.25},
    ]


@pytest.mark.parametrize("step", [0, 1, 3, 9])
@pytest.mark.parametrize("tail", ["", '{"step": 9', "{"])
def test_reopening_forgets_later_steps_and_unfinished_lines(step: int, tail: str, tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        for at in (1, 2, 3, 4):
            metrics.write(at, "train", loss=float(at))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(tail)
    with Metrics(tmp_path, step) as metrics:
        metrics.write(99, "val", loss=0.5)
    assert [record["step"] for record in read_metrics(tmp_path)] == [*range(1, min(step, 4) + 1), 99]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow past 1000 bytes: what a full disk does to write(), a partial write included."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_whole_lines(tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Board, "add", lambda *_: None)
    with Metrics(tmp_path, 0) as metrics:
        for step in range(100):
            before = (tmp_path / "metrics.jsonl").read_bytes()
            try:
                metrics.write(step, "train", loss=1 / (step + 1))
            except OSError as error:
                named = error.filename
                break
        else:
            pytest.fail("wrote past the limit")
        assert named == str(tmp_path / "metrics.jsonl")
        assert len(before) > 900
        assert (tmp_path / "metrics.jsonl").read_bytes() == before
