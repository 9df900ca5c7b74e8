"""An experiment of tiny runs, and coordinators in processes of their own that start at once."""

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from streammix.lab.experiment import process
from streammix.lab.experiment.reading import read_experiment
from streammix.lab.experiment.running import run_experiment

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


def coordinate(toml: Path, out: Path, said: Path, options: dict[str, Any]) -> None:
    """Run an experiment in this process, whose runs are forked from it, and write what is told to `said`."""
    process.context = lambda: multiprocessing.get_context("fork")  # type: ignore[assignment,return-value]

    def tell(line: str) -> None:
        with said.open("a") as file:
            file.write(line + "\n")

    try:
        run_experiment(read_experiment(toml), out, tell=tell, **options)
    except Exception as error:
        tell(f"{type(error).__name__}: {error}")
        raise SystemExit(2) from None


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
        begun = server.Process(target=with_cache, args=(str(cache), file, out, said, options), daemon=False)
        begun.start()
        begun.said = said
        started.append(begun)
        return begun

    yield start
    for one in started:
        one.kill()
        one.join()


def with_cache(cache: str, *arguments: Any) -> None:
    import os

    os.environ["STREAMMIX_CACHE"] = cache
    coordinate(*arguments)
