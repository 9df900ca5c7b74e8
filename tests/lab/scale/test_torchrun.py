"""torchrun: one voice, a dead process's return, and no waiting without end."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from streammix.lab.config import Config
from streammix.lab.scale import Scale
from streammix.lab.scale.layouts.replicas import Replicas
from streammix.lab.scale.team import joined
from streammix.lab.scale.train import train as train_together
from streammix.lab.training.metrics import read_metrics
from streammix.lab.training.train import train


def torchrun(*words: str, processes: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    command += ["--max-restarts", str(restarts), "--monitor-interval", "0.2", "-m", "streammix", *words]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def worker(agent: int, rank: int) -> int:
    """The id of the process that torchrun started as this rank."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = re.search(r"\) \w (\d+)", (folder / "stat").read_text())
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:  # gone meanwhile
                continue
            if parent and int(parent[1]) == agent and f"RANK={rank}".encode() in environment:
                return int(folder.name)
    raise AssertionError("no such process")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_killed_process_is_started_again_and_nothing_is_lost(tiny: dict[str, Any], tmp_path: Path) -> None:
    config = Config(**tiny | {"recipe": "mhc", "batch": 4, "steps": 30, "eval_every": 15, "checkpoint_every": 5})
    train(config, tmp_path / "one")
    run = tmp_path / "run"
    process = torchrun("train", "--out", str(run), "--parallel", "fsdp", *config.arguments(), restarts=1)
    try:
        wait_for(lambda: lines(run) >= 9, process)
        os.kill(worker(process.pid, 1), signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    assert out.count("mhc: validation loss") == 1  # one voice
    records, expected = read_metrics(run), read_metrics(tmp_path / "one")
    assert [(r["kind"], r["step"]) for r in records] == [(r["kind"], r["step"]) for r in expected]
    for mine, theirs in zip(records, expected):
        assert abs(mine["loss"] - theirs["loss"]) < 1e-4
    assert not list(run.rglob(".scratch-*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_mistake_is_said_once(text: Path, tmp_path: Path) -> None:
    process = torchrun("train", str(text), "--out", str(tmp_path / "run"), "--batch", "5", "--context", "16")
    out, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert out == ""
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert said == ["error: --batch is 5, and 2 processes share it; accepted: multiples of 2"]
    assert not (tmp_path / "run").exists()


# --- nothing hangs ----------------------------------------------------------------------------------------------


def alone_at_last(rank: int, config: Config, folder: Path) -> None:
    """The second process sleeps in the second step; the first does not wait for ever."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    backward, steps = Replicas.backward, []

    def sleeping(self: Replicas, batch: Any) -> torch.Tensor:
        steps.append(batch)
        if rank and len(steps) == 2:
            time.sleep(1000)
        return backward(self, batch)

    Replicas.backward = sleeping  # type: ignore[method-assign]
    began = time.monotonic()
    try:
        train_together(config, folder / "run", Scale("ddp", timeout=10))
    except RuntimeError:
        (folder / "waited").write_text(f"{time.monotonic() - began}")
        os._exit(3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_says_nothing_ends_the_others(tiny: dict[str, Any], tmp_path: Path, free_port: int) -> None:
    os.environ["MASTER_PORT"] = str(free_port)
    config = Config(**tiny | {"steps": 3})
    with pytest.raises(mp.ProcessExitedException, match="exit code 3"):
        mp.spawn(alone_at_last, args=(config, tmp_path), nprocs=2)
    assert (tmp_path / "waited").exists()


def test_processes_that_do_not_meet_are_a_mistake(
    tiny: dict[str, Any], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streammix.lab.errors import LabError

    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port))  # where nobody listens
    with (
        pytest.raises(LabError, match=r"did not meet within 1 seconds \(--timeout\)"),
        joined(Config(**tiny), Scale(timeout=1)),
    ):
        pass
