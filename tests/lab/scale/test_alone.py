"""What needs no second process: settings, refusals, and checkpoints of shards."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from streammix import cli
from streammix.lab import files
from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.scale import Scale
from streammix.lab.scale.layouts.tokens import as_one, by_process
from streammix.lab.scale.train import LAUNCH, restarted_here
from streammix.lab.scale.train import train as train_together
from streammix.lab.training import checkpoint, sharded
from streammix.lab.training.metrics import Metrics, read_metrics
from streammix.lab.training.train import train

MANY = 10**6  # bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parallel": "dp"}, "--parallel is 'dp'; accepted: ddp, fsdp, tp, pp"),
        ({"accumulate": 0}, "--accumulate is 0; accepted: a number from 1 up to"),
        ({"timeout": 0}, "--timeout is 0"),
        ({"recompute": "all"}, "--recompute is 'all'; accepted: auto, or a number from 1 up"),
        ({"recompute": "0"}, "--recompute is '0'"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        Scale(**options)


@pytest.mark.parametrize(
    ("scale", "world", "message"),
    [
        (Scale("ddp"), 3, r"--batch is 4, and 3 processes share it; accepted: multiples of 3"),
        (Scale("fsdp", accumulate=4), 2, r"--batch is 4, .* in 4 parts \(--accumulate\); accepted: multiples of 8"),
        (Scale("pp", accumulate=3), 2, r"--batch is 4, .* 3 parts .* multiples of 3"),
        (Scale("tp"), 4, "--heads is 2, and 4 processes share it; accepted: multiples of 4"),
        (Scale("pp"), 3, "--layers is 2, and 3 stages share them; accepted: 3 or more"),
    ],
)
def test_processes_that_cannot_share_a_run(scale: Scale, world: int, message: str, tiny: dict[str, Any]) -> None:
    config = Config(**tiny | {"batch": 4})
    with pytest.raises(LabError, match=message):
        scale.check(config, world, MANY)


def test_a_text_smaller_than_a_batch_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"too short: \d+ bytes to train on, and a batch has 32000 \(--batch 2000 times"):
        train_together(Config(**tiny | {"batch": 2000}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_micro_batches_are_as_many_as_stages_where_that_divides_the_batch(tiny: dict[str, Any]) -> None:
    config = Config(**tiny | {"batch": 6})
    assert [Scale("pp").parts(config, world) for world in (1, 2, 4)] == [1, 2, 2]
    assert Scale("ddp").parts(config, 2) == 1
    assert Scale("pp", accumulate=6).parts(config, 2) == 6


def test_rows_of_fused_matrices_by_process_and_back() -> None:
    rows = torch.arange(12).view(12, 1)  # three parts of four rows
    cut = by_process(rows, 3, 2)
    assert cut[:6].flatten().tolist() == [0, 1, 4, 5, 8, 9]
    assert torch.equal(as_one(cut, 3, 2), rows)


# --- one process by the same code -------------------------------------------------------------------------------


def curve(run: Path) -> list[tuple[str, int, float]]:
    return [(record["kind"], record["step"], record["loss"]) for record in read_metrics(run)]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "tp", "pp"])
def test_one_process_trains_as_the_plain_command(parallel: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**tiny)  # plain residuals: AdamW makes much of the rounding where new streams have no gradient
    train(config, tmp_path / "one")
    summary = train_together(config, tmp_path / "run", Scale(parallel))
    reference = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert summary.keys() == reference.keys() | {"parallel", "processes"}
    for name in ("parameters", "connection_parameters", "tokens", "streams", "data_sha256"):
        assert summary[name] == reference[name]
    for mine, theirs in zip(curve(tmp_path / "run"), curve(tmp_path / "one"), strict=True):
        assert mine[:2] == theirs[:2]
        assert abs(mine[2] - theirs[2]) < 1e-4
    assert train_together(config, tmp_path / "run", Scale(parallel), resume=True) == summary
    saved, whole = (checkpoint.latest(tmp_path / run)[0] for run in ("run", "one"))
    assert saved is not None
    assert whole is not None
    for kind in ("weights", "optimizer"):
        mine, theirs = getattr(saved, kind), getattr(whole, kind)
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture
def stopped(tiny: dict[str, Any], tmp_path: Path) -> tuple[Config, Path]:
    """A run with checkpoints of shards after steps 4 and 8, that lacks its last."""
    config, run = Config(**tiny), tmp_path / "run"
    train_together(config, run)
    shutil.rmtree(run / "checkpoints" / "step-000012")
    (run / "summary.json").unlink()
    shutil.copytree(run / "checkpoints" / "step-000008", run / "checkpoints" / "step-000004")
    return config, run


def shard_of(run: Path, step: int) -> Path:
    (path,) = (run / "checkpoints" / f"step-{step:06d}").glob("*.safetensors")
    return path


def test_the_plain_command_goes_on_from_shards(stopped: tuple[Config, Path], tmp_path: Path) -> None:
    config, run = stopped
    train(config, run, resume=True)
    train(config, tmp_path / "one")
    for mine, theirs in zip(curve(run), curve(tmp_path / "one"), strict=True):
        assert abs(mine[2] - theirs[2]) < 1e-4


@pytest.mark.parametrize("damage", ["cut", "altered", "missing", "unknown"])
def test_damaged_shards_are_noticed(damage: str, stopped: tuple[Config, Path]) -> None:
    _, run = stopped
    path = shard_of(run, 8)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-8])
    elif damage == "altered":
        path.write_bytes(content[:-8] + b"\1" * 8)
    elif damage == "missing":
        path.unlink()
    else:
        path.with_name("other.safetensors").write_bytes(content)
    with pytest.raises(LabError, match=r"safetensors: corrupt checkpoint \("):
        checkpoint.read(run / "checkpoints" / "step-000008")


def test_a_shard_of_another_size_than_it_says_takes_no_memory(stopped: tuple[Config, Path]) -> None:
    """A folder of someone else's, with hashes that fit."""
    _, run = stopped
    path = shard_of(run, 8)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    offsets = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
    offsets["embed.weight"]["saved_offsets"] = [10**9, 0]
    header["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(offsets)
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + length :])
    files_of_it = {path.name: sharded.signature(path)}
    with pytest.raises(LabError, match="larger than its files"):
        sharded.read(path.parent, files_of_it, 8)


def test_other_settings_and_another_model_are_refused(stopped: tuple[Config, Path], tiny: dict[str, Any]) -> None:
    config, run = stopped
    with pytest.raises(LabError, match=r"other settings: --lr 0\.5"):
        train_together(dataclasses.replace(config, lr=0.5), run, resume=True)
    with pytest.raises(LabError, match="holds a run already; add --resume"):
        train_together(config, run)
    other = run.parent / "other"
    train_together(Config(**tiny | {"recipe": "hc", "steps": 4}), other)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    with pytest.raises(LabError, match="the checkpoint there has other settings: --recipe residual"):
        train_together(config, run, resume=True)


def test_a_full_disk_keeps_the_checkpoint_before(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammix.lab.scale import saving

    def full(path: Path, value: Any) -> None:
        if "step-000008" in str(path):
            raise OSError(28, "No space left on device", str(path))
        files.write_json(path, value)

    config, run = Config(**tiny), tmp_path / "run"
    monkeypatch.setattr(saving, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        train_together(config, run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000004"]
    monkeypatch.undo()
    monkeypatch.setenv("STREAMMIX_CACHE", str(tmp_path / "cache"))
    train_together(config, run, resume=True)
    assert len(curve(run)) == 12 + 4


def test_what_is_saved_is_of_its_step_whatever_follows(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Steps run while a checkpoint is written."""
    config = Config(**tiny | {"checkpoint_every": 1, "steps": 4})
    train_together(config, tmp_path / "often", Scale("ddp"))
    train_together(dataclasses.replace(config, checkpoint_every=3), tmp_path / "seldom", Scale("ddp"))
    often, seldom = (checkpoint.read(tmp_path / run / "checkpoints" / "step-000003") for run in ("often", "seldom"))
    assert all(torch.equal(value, seldom.weights[name]) for name, value in often.weights.items())
    assert all(torch.equal(value, seldom.optimizer[name]) for name, value in often.optimizer.items())


def test_the_command_takes_the_options(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(text), "--preset", "smoke", "--steps", "2", "--context", "16", "--out", str(tmp_path / "run")]
    assert (
        cli.run([*words, "--accumulate", "2", "--checkpoint-activations", "--recompute", "auto", "--parallel", "pp"])
        == 0
    )
    out, _ = capsys.readouterr()
    assert "mhc: validation loss" in out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["parallel"] == "pp"
    assert cli.run([*words, "--recompute", "auto", "--recipe", "xhc", "--out", str(tmp_path / "other")]) == 2
    assert "--recompute: recipe xhc has no states that can be made again" in capsys.readouterr().err


def test_the_place_of_a_gradient_that_is_not_finite_is_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    from streammix.lab.scale.divergence import blame
    from streammix.lab.scale.layouts import LAYOUTS
    from streammix.lab.scale.team import joined

    config, scale = Config(**tiny | {"recipe": "mhc"}), Scale()
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    with joined(config, scale) as team:
        layout = LAYOUTS["ddp"](config, scale, team)
        layout.backward((tokens, tokens))
        for number in (0, 2):
            linear = layout.module.stack.sites[number].branch.out
            assert isinstance(linear, nn.Linear)
            linear.weight.grad.fill_(torch.inf)
        found = blame(layout, (tokens, tokens), 1.0)
        assert found == "first in the gradient of stack.sites.2.branch.out.weight"
        layout.module.stack.sites[1].branch.out.weight.data.fill_(torch.nan)
        assert blame(layout, (tokens, tokens), torch.nan) == "first after site 2 (stack.sites.1)"


def test_a_recipe_that_cannot_be_sharded_on_tokens_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"--parallel tp: recipe xhc can't be sharded .*; accepted: ddp, fsdp, pp"):
        train_together(Config(**tiny | {"recipe": "xhc"}), tmp_path / "run", Scale("tp"))
    assert not (tmp_path / "run").exists()


def test_measurements_that_cannot_be_written_stop_the_run_with_a_checkpoint(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Metrics.write

    def full(self: Metrics, step: int, kind: str, **values: float) -> None:
        if step == 5:
            raise OSError(28, "No space left on device", str(self.path))
        write(self, step, kind, **values)

    monkeypatch.setattr(Metrics, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
        train_together(Config(**tiny), tmp_path / "run")
    assert [path.name for path in checkpoint.steps(tmp_path / "run")] == ["step-000004", "step-000006"]


def test_a_restart_goes_on_with_its_own_run_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "mine", "TORCHELASTIC_RESTART_COUNT": "1"}
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    assert not restarted_here(tmp_path)
    (tmp_path / LAUNCH).write_text('"another"')
    assert not restarted_here(tmp_path)
    (tmp_path / LAUNCH).write_text('"mine"')
    assert restarted_here(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not restarted_here(tmp_path)
