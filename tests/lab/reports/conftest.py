"""Tiny runs of several recipes, seeds and learning rates, which the tests of pages share."""

from pathlib import Path
from typing import Any

import pytest

from streammix.lab.config import Config
from streammix.lab.training.train import train

#: (recipe, learning rate, seed) of each run.
RUNS = [("residual", 0.01, 0), ("mhc", 0.01, 0), ("mhc", 0.01, 1), ("mhc", 0.03, 0), ("hc", 0.01, 0)]


@pytest.fixture(scope="session")
def many_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of finished runs, each in RECIPE-LR-SEED, measured at steps 0, 4, 8 and 12."""
    root = tmp_path_factory.mktemp("many")
    text = root / "text.txt"
    text.write_text("".join(f"the {i}th of {i * i} words, and so on\n" for i in range(600)))
    settings: dict[str, Any] = {"text": (str(text),), "dim": 16, "layers": 1, "heads": 2, "context": 16}
    settings |= {"batch": 2, "steps": 12, "warmup": 2, "eval_every": 4, "checkpoint_every": 12, "threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMMIX_CACHE", str(root / "cache"))
        for recipe, lr, seed in RUNS:
            config = Config(recipe=recipe, lr=lr, seed=seed, diagnose_every=4, **settings)
            train(config, root / "runs" / f"{recipe}-{lr:g}-{seed}")
    return root / "runs"
