"""Two processes, however the model is spread over them, give the losses of one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together

from streammix.lab.config import Config
from streammix.lab.scale import Scale
from streammix.lab.scale.train import train as train_together
from streammix.lab.training.metrics import read_metrics
from streammix.lab.training.train import train

CLOSE = 1e-4  # of a loss after 30 steps in float32
RUNS = {
    "ddp": Scale("ddp"),
    "fsdp": Scale("fsdp"),
    "tp": Scale("tp"),
    "pp": Scale("pp"),
    "ddp-parts": Scale("ddp", accumulate=2, checkpoint_activations=True, recompute="auto"),
    "fsdp-parts": Scale("fsdp", accumulate=2, checkpoint_activations=True, recompute="2"),
}


def losses(run: Path) -> list[tuple[str, int, float, float]]:
    return [(r["kind"], r["step"], r["loss"], r.get("grad_norm", 0.0)) for r in read_metrics(run)]


def every_way(mesh: Any, config: Config, folder: Path) -> None:
    for name, scale in RUNS.items():
        summary = train_together(config, folder / name, scale)
        assert (summary["parallel"], summary["processes"]) == (scale.parallel, 2)


def assert_close(run: Path, reference: Path) -> None:
    mine, theirs = losses(run), losses(reference)
    assert [r[:2] for r in mine] == [r[:2] for r in theirs]
    numbers, expected = (torch.tensor([r[2:] for r in records]) for records in (mine, theirs))
    torch.testing.assert_close(numbers[:, 0], expected[:, 0], rtol=0, atol=CLOSE, msg=run.name)
    torch.testing.assert_close(numbers[:, 1], expected[:, 1], rtol=1e-2, atol=1e-3, msg=run.name)


@pytest.mark.slow
def test_thirty_steps_of_two_processes_are_those_of_one(tiny: dict[str, Any], tmp_path: Path) -> None:
    changes = {"recipe": "mhc", "batch": 4, "steps": 30, "eval_every": 10, "eval_batches": 3, "checkpoint_every": 20}
    config = Config(**tiny | changes)
    one = train(config, tmp_path / "one")
    together(every_way, tmp_path, config, tmp_path)
    for name in RUNS:
        assert_close(tmp_path / name, tmp_path / "one")
        assert abs(one["val_loss"] - losses(tmp_path / name)[-1][2]) < CLOSE
