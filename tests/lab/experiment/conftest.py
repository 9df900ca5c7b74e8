"""An experiment of tiny runs, and coordinators in processes of their own that start at once."""

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from coordinators import coordinate

TOML = """
title = "Tiny"
recipes = ["residual", "mhc"]
lrs = [1e-3, 1e-2]
seeds = [0, 1]
tuning_seeds = 1
text = ["text"]

[settings]
dim = 16
layers = 1
heads = 2
context = 16
batch = 2
steps = 12
warmup = 2
eval_every = 6
eval_batches = 2
checkpoint_every = 3
threads = 1
"""


@pytest.fixture
def toml(text: Path) -> Path:
    path = text.parent / "tiny.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="session")
def server() -> ForkServerContext:
    """Forks of a process that has imported all this once."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(
        ["streammix.lab.experiment.running", "streammix.lab.training.train", "torch._dynamo", "rich.console"]
    )
    return made


@pytest.fixture
def coordinator(toml: Path, tmp_path: Path, cache: Path, server: ForkServerContext) -> Iterator[Callable[..., Any]]:
    """Starts coordinators of the tiny experiment; what they tell goes to OUT/../said-NUMBER."""
    started: list[Any] = []

    def start(out: Path, file: Path = toml, **options: Any) -> Any:
        said = tmp_path / f"said-{len(started)}"
        begun = server.Process(target=coordinate, args=(str(cache), file, out, said, options), daemon=False)
        begun.start()
        begun.said = said
        started.append(begun)
        return begun

    yield start
    for one in started:
        one.kill()
        one.join()
