"""Two processes, however the model is spread over them, give the losses of one; also after a change of their number."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import together

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.scale import Scale
from streammix.lab.scale.train import train as train_together
from streammix.lab.training import checkpoint
from streammix.lab.training.metrics import Metrics, read_metrics
from streammix.lab.training.train import Interrupted, train

CLOSE = 1e-4  # of a loss after 30 steps in float32
CHANGES = {"recipe": "mhc", "heads": 4, "dim": 32, "batch": 4, "eval_batches": 3}
LONG = {"steps": 30, "eval_every": 10, "checkpoint_every": 20}
SHORT = {"steps": 6, "eval_every": 5, "checkpoint_every": 4}


def losses(run: Path) -> list[tuple[str, int, float, float]]:
    return [(r["kind"], r["step"], r["loss"], r.get("grad_norm", 0.0)) for r in read_metrics(run)]


def assert_close(run: Path, reference: Path, close: float = CLOSE) -> None:
    mine, theirs = losses(run), losses(reference)
    assert [r[:2] for r in mine] == [r[:2] for r in theirs], run.name
    numbers, expected = (torch.tensor([r[2:] for r in records]) for records in (mine, theirs))
    torch.testing.assert_close(numbers[:, 0], expected[:, 0], rtol=0, atol=close, msg=run.name)
    torch.testing.assert_close(numbers[:, 1], expected[:, 1], rtol=1e-2, atol=1e-3, msg=run.name)


def train_all(mesh: Any, runs: dict[str, tuple[Config, Scale]], folder: Path) -> None:
    for name, (config, scale) in runs.items():
        summary = train_together(config, folder / name, scale)
        assert (summary["parallel"], summary["processes"]) == (scale.parallel, 2)


@pytest.mark.slow
def test_thirty_steps_of_two_processes_are_those_of_one(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**tiny | CHANGES | LONG)
    one = train(config, tmp_path / "one")
    runs = {parallel: (config, Scale(parallel)) for parallel in ("ddp", "fsdp", "tp", "pp")}
    together(train_all, tmp_path, runs, tmp_path)
    for name in runs:
        assert_close(tmp_path / name, tmp_path / "one")
        assert abs(one["val_loss"] - losses(tmp_path / name)[-1][2]) < CLOSE


@pytest.mark.slow
def test_parts_and_recomputed_activations_change_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**tiny | CHANGES | SHORT)
    less: dict[str, Any] = {"accumulate": 2, "checkpoint_activations": True}
    runs = {parallel: (config, Scale(parallel, **less, recompute="2")) for parallel in ("ddp", "fsdp", "tp", "pp")}
    for recipe in ("residual", "deepseek-v4.1", "xhc", "ghc"):
        for parallel in ("ddp", "fsdp", "pp"):
            runs[f"{recipe}-{parallel}"] = (
                Config(**tiny | CHANGES | SHORT | {"recipe": recipe}),
                Scale(parallel, **less),
            )
    together(train_all, tmp_path, runs, tmp_path)
    for name, (its, _) in runs.items():
        one = tmp_path / f"one-{its.recipe}"
        if not one.exists():
            train(its, one)
        assert_close(tmp_path / name, one)


@pytest.mark.slow
def test_bfloat16_follows(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**tiny | CHANGES | SHORT | {"bf16": True})
    train(Config(**tiny | CHANGES | SHORT), tmp_path / "exact")
    runs = {parallel: (config, Scale(parallel)) for parallel in ("ddp", "fsdp", "tp", "pp")}
    together(train_all, tmp_path, runs, tmp_path)
    for name in runs:
        rough, exact = (torch.tensor([r[2] for r in losses(tmp_path / run)]) for run in (name, "exact"))
        assert not torch.equal(rough, exact), name
        torch.testing.assert_close(rough, exact, rtol=0, atol=0.05, msg=name)


# --- another number of processes --------------------------------------------------------------------------------


def train_until(mesh: Any, config: Config, run: Path, scale: Scale | None, stop: int) -> None:
    """Train from where the run is, and stop by a signal to the first process after a step, if it comes."""
    write = Metrics.write

    def acting(self: Metrics, step: int, kind: str, **values: float) -> None:
        write(self, step, kind, **values)
        if (step, kind) == (stop, "train"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "write", acting)
        run_it = train if scale is None else train_together
        # The signal comes after the processes agreed on the step, so that they stop after the next.
        said = f"stopped after step {stop + (scale is not None)} of"
        with pytest.raises(Interrupted, match=said) if stop < config.steps else nullcontext():
            run_it(config, run, *[scale] * (scale is not None), resume=True)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Two processes, then one of the plain command, then four, each with another layout."""
    config, run = Config(**tiny | CHANGES | {"steps": 16}), tmp_path / "run"
    train(config, tmp_path / "one")
    together(train_until, tmp_path, config, run, Scale("fsdp"), 5)
    assert (run / "checkpoints" / "step-000006" / "shard-00002-model-00001-of-00001.safetensors").exists()
    model, _ = checkpoint.load_model(run)  # what is sharded is one model for those who read it
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    train_until(None, config, run, None, 9)
    (tmp_path / "store").unlink()
    together(train_until, tmp_path, config, run, Scale("tp"), 99, world=4)
    assert_close(run, tmp_path / "one")
    assert [path.name for path in checkpoint.steps(run)] == ["step-000012", "step-000016"]


# --- what goes wrong --------------------------------------------------------------------------------------------


def diverge(mesh: Any, config: Config, folder: Path) -> None:
    for parallel in ("ddp", "fsdp", "tp", "pp"):
        with pytest.raises(LabError, match=r"diverged: loss nan, .* at step 2, first after site 1 \(stack\.sites\.0\)"):
            train_together(config, folder / parallel, Scale(parallel))
        dist.barrier()
        assert [path.name for path in checkpoint.steps(folder / parallel)] == ["step-000001"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_all_processes_and_names_the_site(tiny: dict[str, Any], tmp_path: Path) -> None:
    together(diverge, tmp_path, Config(**tiny | CHANGES | {"lr": 1e30, "warmup": 0}), tmp_path)
    for parallel in ("ddp", "pp"):
        assert checkpoint.latest(tmp_path / parallel)[0] is not None
