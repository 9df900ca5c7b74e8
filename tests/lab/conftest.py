"""A small text, a private cache, and settings small enough to train in a second."""

import random
from pathlib import Path
from typing import Any

import pytest

TINY = {"recipe": "residual", "dim": 16, "layers": 2, "heads": 2, "context": 16, "batch": 2, "steps": 12}
TINY |= {"warmup": 2, "eval_every": 5, "eval_batches": 2, "checkpoint_every": 4, "threads": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The text cache of this test alone."""
    monkeypatch.setenv("STREAMMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A folder with forty text files of made-up words."""
    folder = tmp_path / "text"
    folder.mkdir()
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshr", k=draw.randint(2, 6))) for _ in range(50)]
    for i in range(40):
        (folder / f"{i:02d}.txt").write_text(" ".join(draw.choices(words, k=100)) + "\n")
    return folder


@pytest.fixture
def tiny(text: Path) -> dict[str, Any]:
    """Settings of a run that takes less than a second."""
    return TINY | {"text": (str(text),)}
