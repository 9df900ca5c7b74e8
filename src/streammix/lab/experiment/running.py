"""A worker's loop: claim a run that nobody has, train it, and go on until every run has ended."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from streammix.lab import text
from streammix.lab.errors import LabError
from streammix.lab.experiment.claims import LEASE, Claim, Lost, take
from streammix.lab.experiment.plan import Experiment, Run
from streammix.lab.experiment.process import Training, start
from streammix.lab.experiment.results import (
    CLAIMS,
    RUNS,
    find_result,
    losses_of,
    prepare_folder,
    read_results,
    write_results,
)

Tell = Callable[[str], None]
POLL = 2.0  # seconds between looks at what other workers have ended


def run_experiment(
    experiment: Experiment,
    out: Path,
    *,
    workers: int = 1,
    lease: float = LEASE,
    update: bool = False,
    keep_checkpoints: bool = False,
    tell: Tell = print,
) -> dict[str, dict[str, Any]]:
    """Train every run that has no result yet, and return all results by the run's key.

    Any number of processes, on any number of machines that share the folder, may do this at once: each run is trained
    by one of them, and all return when every run has ended. What was stopped goes on from its checkpoint.

    Args:
        out: the experiment's folder; see `results`.
        workers: runs at once; they share this machine's threads unless the settings say how many each has.
        lease: seconds without a sign of life after which another machine's run is taken over; more than its clock and
            its network may stall.
        update: see `prepare_folder`.
        keep_checkpoints: whether the trained models stay in the runs' folders.
        tell: is given a line when a run ends.

    Raises:
        LabError: the folder, the text or a result is not the experiment's; or runs failed, which the others survived.
        KeyboardInterrupt: Ctrl-C; the runs under way have written checkpoints.
    """
    if workers < 1:
        raise LabError(f"--workers is {workers}; accepted: integers >= 1")
    if not 1 <= lease < float("inf"):
        raise LabError(f"--lease is {lease:g}; accepted: seconds, at least 1")
    corpus = text.load(experiment.text)
    for context in {case.config.context for case in experiment.cases}:
        text.require_length(corpus, context)
    prepare_folder(out, experiment, corpus, update=update)
    threads = max(1, (os.cpu_count() or 1) // workers)
    loop = Loop(experiment, out, corpus.sha256, workers, lease, keep_checkpoints, threads, tell)
    try:
        loop.run()
    finally:
        loop.stop()
        write_results(out, experiment)
    if loop.failed:
        raise LabError("; ".join(f"{name}: {why}" for name, why in loop.failed.items()))
    return read_results(out, experiment)


@dataclass
class Loop:
    """The runs that this process trains, and what is known of the others."""

    experiment: Experiment
    out: Path
    data_sha256: str
    workers: int
    lease: float
    keep_checkpoints: bool
    threads: int
    tell: Tell
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    under_way: list[tuple[Training, Claim]] = field(default_factory=list)
    refreshed: float = 0.0

    def run(self) -> None:
        self.results = read_results(self.out, self.experiment)
        while True:
            self.reap()
            if len(self.under_way) < self.workers:
                waiting = self.waiting()
                for run in waiting:
                    if len(self.under_way) < self.workers:
                        self.begin(run)
                if not waiting and not self.under_way:
                    return
            self.give_signs_of_life()
            patience = POLL if len(self.under_way) < self.workers else 60  # others may end what keeps this one waiting
            wait([one.process.sentinel for one, _ in self.under_way], min(patience, self.lease / 6))

    def waiting(self) -> list[Run]:
        """The runs that have neither a result nor a process here, having looked for what others have ended."""
        mine = {training.run.key for training, _ in self.under_way}
        before = len(self.results)
        runs = [run for run in self.experiment.runs(losses_of(self.results)) if run.name not in self.failed]
        for run in runs:
            if run.key not in self.results and run.key not in mine:
                self.look_for(run)
        if len(self.results) > before:  # which may have chosen a learning rate
            return self.waiting()
        return [run for run in runs if run.key not in self.results and run.key not in mine]

    def look_for(self, run: Run) -> None:
        if result := find_result(self.out, run):
            self.results[run.key] = result

    def begin(self, run: Run) -> None:
        """Train a run, unless another worker does or has done so."""
        claim = take(self.out / CLAIMS, run.name, self.lease)
        if claim is None:
            return
        self.look_for(run)  # between the last look and the claim another worker may have ended it
        if run.key in self.results:
            claim.release()
            return
        config = replace(run.config, text=self.experiment.text, threads=run.config.threads or self.threads)
        folder = self.out / RUNS / run.name
        training = start(replace(run, config=config), folder, self.data_sha256, keep_checkpoints=self.keep_checkpoints)
        self.under_way.append((training, claim))

    def reap(self) -> None:
        """Take note of the processes that have ended."""
        for training, claim in list(self.under_way):
            if training.process.is_alive():
                continue
            self.under_way.remove((training, claim))
            run = training.run
            why = training.outcome()
            self.look_for(run)
            claim.release()
            if run.key in self.results:
                self.tell(self.line(run, time.monotonic() - training.began))
            elif not training.stopped:
                self.failed[run.name] = why or "ended without a result"
                self.tell(f"{run.name}: failed: {self.failed[run.name]}")

    def line(self, run: Run, seconds: float) -> str:
        """What is said of a run that has ended."""
        result = self.results[run.key]
        loss = f"{result['val_loss']:.4f}" if "val_loss" in result else result["status"]
        words = (run.group, run.arm, f"lr {run.config.lr:g}", f"seed {run.config.seed}")
        place = ", ".join(word for word in words if word)
        return f"{len(self.results)}/{self.experiment.count()}  {place}: {loss} ({seconds:.0f} s)"

    def give_signs_of_life(self) -> None:
        if time.monotonic() - self.refreshed < self.lease / 6:
            return
        self.refreshed = time.monotonic()
        for training, claim in list(self.under_way):
            try:
                claim.refresh()
            except Lost as lost:
                self.tell(f"{training.run.name}: {lost}")
                training.stop()

    def stop(self) -> None:
        """Let every run under way write a checkpoint and end; a second Ctrl-C does not wait for it."""
        for training, _ in self.under_way:
            training.stop()
        try:
            for training, _ in self.under_way:
                training.process.join()
        except KeyboardInterrupt:
            for training, _ in self.under_way:
                training.process.kill()
            raise
        finally:
            for training, claim in self.under_way:
                training.process.join()
                self.look_for(training.run)
                claim.release()
