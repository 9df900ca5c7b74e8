"""Two processes, however the model is spread over them, give the losses of one; also after a change of their number."""

import dataclasses
import os
import random
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
from streammix.lab.scale import PARALLEL, Scale
from streammix.lab.scale.train import train as train_together
from streammix.lab.training import checkpoint
from streammix.lab.training.metrics import Metrics, read_metrics
from streammix.lab.training.train import Interrupted, train

CLOSE = 1e-4  # of a loss after 30 steps in float32
TINY = {"layers": 2, "context": 16, "warmup": 2, "threads": 1}
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


# --- two processes ----------------------------------------------------------------------------------------------

Runs = dict[str, tuple[Config, Scale]]


def jobs(text: str) -> Runs:
    """What two processes are to train, by the name of its folder."""
    tiny = TINY | CHANGES | {"text": (text,)}
    long, short, rough = (Config(**tiny | more) for more in (LONG, SHORT, SHORT | {"bf16": True}))
    less: dict[str, Any] = {"accumulate": 2, "checkpoint_activations": True}
    runs: Runs = {}
    for parallel in PARALLEL:
        runs[f"long-{parallel}"] = long, Scale(parallel)
        runs[f"parts-{parallel}"] = short, Scale(parallel, **less, recompute="2")
        runs[f"rough-{parallel}"] = rough, Scale(parallel)
    for recipe in ("residual", "deepseek-v4.1", "xhc", "ghc"):
        for parallel in ("ddp", "fsdp", "pp"):
            runs[f"{recipe}-{parallel}"] = Config(**tiny | SHORT | {"recipe": recipe}), Scale(parallel, **less)
    return runs


def train_all(mesh: Any, text: str, folder: Path) -> None:
    for name, (config, scale) in jobs(text).items():
        summary = train_together(config, folder / name, scale)
        assert (summary["parallel"], summary["processes"]) == (scale.parallel, 2)
    diverging = Config(**TINY | CHANGES | {"text": (text,), "lr": 1e30, "warmup": 0})
    for parallel in PARALLEL:
        with pytest.raises(
            LabError, match=r"diverged: loss nan, .* at step 2; .*; first after site 1 \(stack\.sites\.0\)"
        ):
            train_together(diverging, folder / f"diverging-{parallel}", Scale(parallel))
        dist.barrier()
        assert [path.name for path in checkpoint.steps(folder / f"diverging-{parallel}")] == ["step-000001"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Path]:
    """The folder in which two processes have trained all jobs, in one start because starting takes longest."""
    folder = tmp_path_factory.mktemp("two")
    draw = random.Random(1)
    (folder / "text.txt").write_text("".join(draw.choices("etaoin shrdlu", k=20_000)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMMIX_CACHE", str(folder / "cache"))
        together(train_all, folder, str(folder / "text.txt"), folder)
    return jobs(str(folder / "text.txt")), folder


def one_process(config: Config, folder: Path) -> Path:
    """The folder of the same run by one process."""
    run = folder / f"one-{config.recipe}-{config.steps}"
    train(dataclasses.replace(config, bf16=False), run, resume=True)
    return run


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parallel", PARALLEL)
def test_thirty_steps_of_two_processes_are_those_of_one(parallel: str, two: tuple[Runs, Path]) -> None:
    runs, folder = two
    one = one_process(runs["long-ddp"][0], folder)
    assert_close(folder / f"long-{parallel}", one)
    assert losses(one)[-1][2] < losses(one)[0][2] - 0.1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_parts_recomputed_activations_and_other_wirings_are_those_of_one(two: tuple[Runs, Path]) -> None:
    runs, folder = two
    for name, (config, scale) in runs.items():
        if scale.accumulate:
            assert_close(folder / name, one_process(config, folder))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bfloat16_follows(two: tuple[Runs, Path]) -> None:
    runs, folder = two
    exact = torch.tensor([r[2] for r in losses(one_process(runs["parts-ddp"][0], folder))])
    for parallel in PARALLEL:
        rough = torch.tensor([r[2] for r in losses(folder / f"rough-{parallel}")])
        assert not torch.equal(rough, exact), parallel
        torch.testing.assert_close(rough, exact, rtol=0, atol=0.05, msg=parallel)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parallel", PARALLEL)
def test_the_model_before_a_loss_that_is_not_finite_is_saved(parallel: str, two: tuple[Runs, Path]) -> None:
    """That all processes stop, and name site and step, is asserted in them."""
    saved, troubles = checkpoint.latest(two[1] / f"diverging-{parallel}")
    assert saved is not None
    assert (saved.step, troubles) == (1, [])


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
@pytest.mark.timeout(600)
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
    together(train_until, tmp_path, config, run, Scale("fsdp"), 99, world=4)  # vectors of 3 leave one without
    assert_close(run, tmp_path / "one")
    assert [path.name for path in checkpoint.steps(run)] == ["step-000012", "step-000016"]
