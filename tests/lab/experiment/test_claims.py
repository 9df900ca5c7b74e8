"""Claims: one worker has a run, and what it leaves behind can be taken over."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from streammix.lab.experiment.claims import Lost, newest, take


def test_a_claim_is_one_worker_s_until_it_is_released(tmp_path: Path) -> None:
    first = take(tmp_path, "run")
    assert first is not None
    assert take(tmp_path, "run") is None
    assert take(tmp_path, "other-run") is not None
    first.refresh()
    first.release()
    second = take(tmp_path, "run")
    assert second is not None
    assert newest(tmp_path, "run") == (2, tmp_path / "run.2")
    assert not list(tmp_path.glob(".scratch*"))


def test_of_many_who_want_a_run_one_gets_it(tmp_path: Path) -> None:
    """Also when all find the same claim abandoned."""
    (tmp_path / "run.1").write_text('{"machine": "elsewhere", "process": 1}\n')
    os.utime(tmp_path / "run.1", (1e9, 1e9))
    got, start = [], threading.Barrier(8)

    def want() -> None:
        start.wait()
        got.append(take(tmp_path, "run"))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in got) == 1
    assert newest(tmp_path, "run")[0] == 2


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from streammix.lab.experiment.claims import take\n"
        "claim = take(Path(sys.argv[1]), 'run'); print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert take(tmp_path, "run", lease=1e-9) is None  # on the same machine a lease says nothing
    assert json.loads((tmp_path / "run.1").read_text())["process"] == process.pid
    process.kill()
    process.wait()
    process.stdout.close()
    assert take(tmp_path, "run", lease=1e9) is not None


def test_a_machine_that_gives_signs_of_life_keeps_its_run(tmp_path: Path) -> None:
    (tmp_path / "run.1").write_text('{"machine": "elsewhere", "process": 1}\n')
    assert take(tmp_path, "run", lease=60) is None
    os.utime(tmp_path / "run.1", (1e9, 1e9))
    assert take(tmp_path, "run", lease=60) is not None


def test_whoever_was_given_up_learns_it(tmp_path: Path) -> None:
    claim = take(tmp_path, "run")
    assert claim is not None
    (tmp_path / "run.2").write_text('{"machine": "elsewhere", "process": 1}\n')
    with pytest.raises(Lost, match="another worker has taken over"):
        claim.refresh()
