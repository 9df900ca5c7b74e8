"""What a process that coordinates an experiment does; in a module of its own, by whose name it is found there."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

from streammix.lab.experiment import process
from streammix.lab.experiment.reading import read_experiment
from streammix.lab.experiment.running import run_experiment


def coordinate(cache: str, toml: Path, out: Path, said: Path, options: dict[str, Any]) -> None:
    """Run an experiment in this process, whose runs are forked from it, and write what is told to `said`."""
    os.environ["STREAMMIX_CACHE"] = cache
    process.context = lambda: multiprocessing.get_context("fork")  # type: ignore[assignment,return-value]

    def tell(line: str) -> None:
        with said.open("a") as file:
            file.write(line + "\n")

    try:
        run_experiment(read_experiment(toml), out, tell=tell, **options)
    except Exception as error:
        tell(f"{type(error).__name__}: {error}")
        raise SystemExit(2) from None
