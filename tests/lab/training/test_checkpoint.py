"""Checkpoints: exact, never half there, and clear about what is wrong with a bad one."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.files import SCRATCH
from streammix.lab.model import GPT
from streammix.lab.training import checkpoint, optim


def trained(tiny: dict[str, Any], **changes: Any) -> tuple[GPT, torch.optim.AdamW]:
    """A model and optimizer after one step, so that every moment is there."""
    config = Config(**tiny | changes)
    model = GPT(config)
    optimizer = optim.adamw(model, config)
    model.loss(torch.arange(32).view(2, 16), torch.arange(1, 33).view(2, 16)).backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """A run's folder with checkpoints of steps 4 and 8."""
    run = tmp_path / "run"
    for step in (4, 8):
        checkpoint.save(run, step, *trained(tiny, recipe="mhc"), {"seconds": 1.5})
    return run


def test_gives_back_every_bit(tiny: dict[str, Any], tmp_path: Path) -> None:
    model, optimizer = trained(tiny, recipe="deepseek-v4")
    path = checkpoint.save(tmp_path, 3, model, optimizer, {"seconds": 0.1})
    found = checkpoint.read(path)
    assert (found.step, found.config, found.counters) == (3, model.config, {"seconds": 0.1})

    other, other_optimizer = GPT(model.config), optim.adamw(model, model.config)
    other_optimizer = optim.adamw(other, model.config)
    checkpoint.restore(found, other, other_optimizer)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters()):
        assert mine.equal(theirs), name
        for key, value in optimizer.state[mine].items():
            assert value.equal(other_optimizer.state[theirs][key]), (name, key)


def test_has_the_write_multiplier_of_its_step(tiny: dict[str, Any], tmp_path: Path) -> None:
    model, optimizer = trained(tiny, recipe="motif-3", steps=9)
    optim.anneal(model, model.config, 3)
    path = checkpoint.save(tmp_path, 3, model, optimizer, {})
    found, _ = checkpoint.load_model(path)
    assert [site.write_multiplier for site in found.stack] == [1.75] * len(found.stack)


def test_only_the_newest_two_stay(tiny: dict[str, Any], tmp_path: Path) -> None:
    for step in (5, 10, 100, 1_000_000):
        checkpoint.save(tmp_path, step, *trained(tiny), {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] != []
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-000100", "step-1000000"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_same_step_is_replaced(tiny: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 5, *trained(tiny), {"seconds": 1})
    checkpoint.save(tmp_path, 5, *trained(tiny), {"seconds": 2})
    assert checkpoint.read(tmp_path / "checkpoints" / "step-000005").counters == {"seconds": 2}


def test_load_model_takes_a_run_or_a_checkpoint(saved: Path) -> None:
    newest, config = checkpoint.load_model(saved)
    oldest, _ = checkpoint.load_model(saved / "checkpoints" / "step-000004")
    assert not newest.training
    assert config.recipe == "mhc"
    tokens = torch.arange(16)[None]
    assert newest(tokens).equal(oldest(tokens))


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_damaged_file(name: str, damage: str, saved: Path) -> None:
    path = saved / "checkpoints" / "step-000008" / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[:-7])
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(LabError) as error:
        checkpoint.read(path.parent)
    assert name in str(error.value)
    assert "\n" not in str(error.value)

    found, troubles = checkpoint.latest(saved)  # the older one stands in, and that is said
    assert found is not None
    assert found.step == 4
    assert troubles == [str(error.value)]


def test_no_readable_checkpoint_is_an_error(saved: Path) -> None:
    for path in saved.rglob("weights.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(LabError, match=r"step-000008.weights\.safetensors: corrupt checkpoint"):
        checkpoint.latest(saved)


def rewrite(path: Path, name: str, change: Any) -> None:
    """Alter the tensors of a checkpoint and sign the result, as a tool would."""
    tensors = load_file(path / name)
    change(tensors)
    save_file(tensors, path / name)
    state = json.loads((path / "state.json").read_text())
    content = (path / name).read_bytes()
    state["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "state.json").write_text(json.dumps(state | {"sha256": checkpoint.digest(state)}))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("weights.safetensors", lambda t: t.pop("head.weight"), "missing: head.weight; 1 in all"),
        ("weights.safetensors", lambda t: t.update(extra=torch.ones(1)), "unknown: extra; 1 in all"),
        (
            "weights.safetensors",
            lambda t: t.update({"head.weight": torch.ones(2, 3)}),
            r"head.weight has shape \(2, 3\), not \(256, 16\)",
        ),
        ("optimizer.safetensors", lambda t: t.pop("exp_avg.embed.weight"), "missing: exp_avg.embed.weight; 1 in all"),
        (
            "optimizer.safetensors",
            lambda t: t.update({"step.norm.weight": torch.ones(2)}),
            r"step.norm.weight has shape \(2,\), not \(\)",
        ),
    ],
)
def test_wrong_tensors(name: str, change: Any, message: str, saved: Path) -> None:
    path = saved / "checkpoints" / "step-000008"
    rewrite(path, name, change)
    found = checkpoint.read(path)
    model = GPT(found.config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(LabError, match=rf"{name}: corrupt checkpoint \({message}\)"):
        checkpoint.restore(found, model, optim.adamw(model, found.config))
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "checkpoint format is 99; this version reads format 2"),
        ({"config": {}}, "not a config of this version"),
        ({"files": {}}, "corrupt checkpoint"),
        ({"step": None}, "corrupt checkpoint"),
    ],
)
def test_wrong_state(change: dict[str, Any], message: str, saved: Path) -> None:
    path = saved / "checkpoints" / "step-000008" / "state.json"
    state = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in state.items() if value is not None}))
    with pytest.raises(LabError, match=message):
        checkpoint.read(path.parent)


@pytest.mark.parametrize("path", ["no/such/run", "."])
def test_nothing_to_load(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabError, match=r"no such run or checkpoint|neither a checkpoint nor a run"):
        checkpoint.load_model(Path(path))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("call", ["fsync", "rename", "replace", "mkdir"])
def test_full_disk_at_any_moment_leaves_what_was_there(
    call: str, saved: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail at the first such system call, then at the second, and so on until none is left to fail."""
    before, real = contents(saved), getattr(os, call)
    model, optimizer = trained(tiny)
    for fails in range(20):
        calls = iter(range(fails + 1))

        def failing(*args: Any, fails: int = fails, calls: Any = calls, **kwargs: Any) -> Any:
            if next(calls, None) == fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, failing)
        try:
            checkpoint.save(saved, 12, model, optimizer, {})
        except OSError as error:
            code = error.errno
        else:
            assert fails > 0
            break
        finally:
            monkeypatch.undo()
        newest = checkpoint.latest(saved)
        assert code == errno.ENOSPC
        assert newest[1] == []
        left = contents(saved)
        if any("step-000012" in name for name in left):  # it was whole when a later call failed
            assert newest[0] is not None
            assert newest[0].step == 12
            return
        assert left == before
    else:
        pytest.fail("never succeeded")
    assert [path.name for path in checkpoint.steps(saved)] == ["step-000008", "step-000012"]
    assert not list(saved.rglob(f"{SCRATCH}*"))
