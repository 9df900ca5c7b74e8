"""One run in a process of its own, which starts with everything imported."""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import threading
import time
from importlib.metadata import version
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from streammix.lab.config import read_config
from streammix.lab.errors import Diverged, LabError
from streammix.lab.experiment.plan import Run
from streammix.lab.experiment.results import DIVERGED, FINISHED, RESULT
from streammix.lab.files import locked, write_json
from streammix.lab.machine import processor


def context() -> ForkServerContext:
    """Processes that come from a server which has imported the lab once: they start in milliseconds.

    Threads that wait sleep instead of spinning, because workers share the machine's cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    made = multiprocessing.get_context("forkserver")
    # Optimizers import torch._dynamo when they are made, which takes longer than all else.
    made.set_forkserver_preload([__name__, "streammix.lab.training.train", "torch._dynamo"])
    return made


@dataclasses.dataclass
class Training:
    """A run under way."""

    run: Run
    process: Any
    troubles: Connection
    began: float
    stopped: bool = False

    def stop(self) -> None:
        """Ask the run to write a checkpoint and end."""
        self.stopped = True
        self.process.terminate()

    def outcome(self) -> str | None:
        """Why the run failed; None where it ended well."""
        self.process.join()
        with contextlib.suppress(EOFError):
            return str(self.troubles.recv())
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"ended by {signal.Signals(-code).name} (out of memory?)"
        return None if code == 0 else f"ended with exit code {code}"


def start(run: Run, folder: Path, data_sha256: str, *, keep_checkpoints: bool) -> Training:
    """Train a run in `folder` in a new process, which ends by a checkpoint on SIGTERM or when this process ends."""
    server = context()
    receiver, sender = server.Pipe(duplex=False)
    process = server.Process(target=work, args=(run, folder, data_sha256, keep_checkpoints, sender), daemon=False)
    process.start()
    sender.close()
    return Training(run, process, receiver, time.monotonic())


def work(run: Run, folder: Path, data_sha256: str, keep_checkpoints: bool, troubles: Connection) -> None:
    """What the process does: train, and write the result."""
    os.setsid()  # Ctrl-C comes to the parent alone, which passes it on
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        train_to_result(run, folder, data_sha256, keep_checkpoints)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except LabError as error:
        troubles.send(str(error))
    except OSError as error:
        troubles.send(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:
        troubles.send(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def end_with_parent() -> None:
    """Ask this process to stop once its parent is gone, however that ended: nobody would wait for the result."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def train_to_result(run: Run, folder: Path, data_sha256: str, keep_checkpoints: bool) -> None:
    from rich.console import Console

    from streammix.lab.training.train import train

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", wait=True):
        pass  # a process whose parent was killed writes its checkpoint first
    about: dict[str, Any] = {"name": run.name, "key": run.key, "group": run.group, "arm": run.arm}
    about |= {"lr": run.config.lr, "seed": run.config.seed}
    try:
        summary = train(run.config, folder, resume=True, console=Console(quiet=True))
        result = about | {"status": FINISHED} | summary
    except Diverged as error:
        result = about | {"status": DIVERGED, "reason": str(error), "recipe": run.config.recipe}
        result["data_sha256"] = data_sha256
    if result["data_sha256"] != data_sha256:
        raise LabError(f"{folder}: the text has changed since this experiment began")
    trained = read_config(folder / "config.json")
    settings = {name: value for name, value in trained.to_dict().items() if name != "text"}
    result |= {"config": settings, "processor": processor(), "streammix": version("streammix")}
    result |= {"torch": version("torch"), "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_json(folder / RESULT, result)
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
