"""One training run on several processes: `train` is the whole story, the rest are its steps."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from streammix.lab import text
from streammix.lab.config import Config
from streammix.lab.errors import Diverged, LabError
from streammix.lab.files import read_json, write_json
from streammix.lab.machine import cpu_threads, peak_memory
from streammix.lab.scale import state
from streammix.lab.scale.divergence import blame
from streammix.lab.scale.gradients import clip
from streammix.lab.scale.layouts import LAYOUTS, Layout
from streammix.lab.scale.log import Log
from streammix.lab.scale.saving import Saver
from streammix.lab.scale.settings import Scale, launch_id, restarted
from streammix.lab.scale.team import Team, joined
from streammix.lab.training import checkpoint, optim
from streammix.lab.training.train import (
    Interrupted,
    delayed_interrupt,
    prepare_folder,
    require_same_settings,
    reserved,
    summarize,
)


class Start(NamedTuple):
    """Where a run goes on: after `step`, with the tensors in `path`, if there is any."""

    path: Path | None
    step: int
    counters: dict[str, Any]
    troubles: list[str]


def train(
    config: Config, run: Path, scale: Scale | None = None, *, resume: bool = False, console: Console | None = None
) -> dict[str, Any]:
    """Train a model in the folder `run`, as `lab.training.train` does, on all processes that torchrun started.

    Every process calls it with the same arguments; the first prints and writes the run's folder, all write shards of
    checkpoints. Each takes its part of the same batches, so the losses are those of one process to rounding. A run goes
    on with other numbers of processes and another `scale`, also one that a single process began. Processes that
    torchrun started again, because one had died, go on without `resume`.

    Returns:
        The summary, also in RUN/summary.json, in every process.

    Raises:
        LabError: as for one process; processes that cannot share this batch or this model; in all processes alike.
        OSError: the disk is full or not writable.
        Interrupted: Ctrl-C or a signal to one of them; a checkpoint has been written.
    """
    scale = scale or Scale()
    with joined(config, scale) as team, cpu_threads(config.threads), contextlib.ExitStack() as held:
        corpus = opened(team, config)
        config = text.with_vocabulary(config, corpus)
        scale.check(config, team.world, len(corpus.train))
        described = state.described_model(config)
        # Before anything is written, because it may refuse the recipe.
        layout = LAYOUTS[scale.parallel](config, scale, team)

        def take_folder() -> dict[str, Any] | None:
            held.enter_context(reserved(run))
            prepare_folder(run, config, resume or restarted_here(run))
            if (run / "summary.json").exists():
                return read_json(run / "summary.json")
            write_json(run / LAUNCH, launch_id())
            return None

        if summary := team.ask_first(take_folder):
            return summary
        start = team.ask_first(lambda: found(run, config, corpus))
        optimizer = optim.adamw(layout.module, config)  # type: ignore[arg-type]
        if start.path is not None:
            state.restore(layout, optimizer, start.path, start.step)
        step, counters = start.step, dict(start.counters)
        saver = Saver(run, config, team)
        with delayed_interrupt() as interrupted, Log(run, config, step, team, console) as log:
            log.warn(start.troubles)

            def measure() -> None:
                log.val(step, val_loss(layout, corpus), counters["seconds"])

            if step == 0 or (step == config.steps and not log.has_val(step)):
                measure()
            while step < config.steps:
                step += 1
                began = time.perf_counter()
                batch = text.train_batch(corpus, config, step)
                loss, norm, stop = train_step(layout, optimizer, batch, step, interrupted() or log.failed)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    where = blame(layout, batch, loss)
                    saved = saver.start(step - 1, layout, optimizer, counters)
                    saver.finish()
                    said = filter(None, (where, f"the model before it is in {saved}"))
                    raise Diverged(loss, norm, step, config, *said)
                took = time.perf_counter() - began
                counters["seconds"] += took
                log.train(step, loss, norm, took, counters["seconds"])
                if step % config.eval_every == 0 or step == config.steps:
                    measure()
                if step % config.checkpoint_every == 0 or step == config.steps or stop:
                    peak = max(team.agree(lambda: peak_memory(team.device)))
                    counters["peak_memory_bytes"] = max(counters["peak_memory_bytes"], peak)
                    log.sync()
                    saver.start(step, layout, optimizer, counters)
                if stop and step < config.steps:
                    saver.finish()
                    team.ask_first(log.check)
                    raise Interrupted(f"stopped after step {step} of {config.steps}, checkpoint written")
            saver.finish()
            team.ask_first(log.check)

        def write_summary() -> dict[str, Any]:
            summary = summarize(run, described, config, counters, corpus)
            summary |= {"parallel": scale.parallel, "processes": team.world}
            write_json(run / "summary.json", summary)
            return summary

        return team.ask_first(write_summary)


LAUNCH = ".launch"  # in the run's folder: which torchrun trained here last


def restarted_here(run: Path) -> bool:
    """Whether torchrun started the processes again that had begun this run, or gone on with it, and not merely those
    that had been refused its folder."""
    return restarted() and (run / LAUNCH).exists() and read_json(run / LAUNCH) == launch_id()


def opened(team: Team, config: Config) -> text.Corpus:
    """The run's text, which must be the same for all processes."""

    held: list[text.Corpus] = []

    def load() -> str:
        held.append(text.load(config.text))
        text.require_length(held[0], config.context)
        return held[0].sha256

    hashes = team.agree(load)
    if len(set(hashes)) > 1:
        other = next(rank for rank, value in enumerate(hashes) if value != hashes[0])
        raise LabError(
            f"the text of process {other} differs from that of process 0; accepted: the same files everywhere"
        )
    return held[0]


def found(run: Path, config: Config, corpus: text.Corpus) -> Start:
    """In the first process: the checkpoint to go on from, examined."""
    start, troubles = checkpoint.latest(run)
    if start is None:
        counters = {"seconds": 0.0, "peak_memory_bytes": 0, "data_sha256": corpus.sha256}
        return Start(None, 0, counters, troubles)
    require_same_settings(start, config)
    checkpoint.require_size(start)
    if start.counters["data_sha256"] != corpus.sha256:
        raise LabError(f"{run}: the text has changed since this run began; start another run")
    return Start(start.path, start.step, dict(start.counters), troubles)


def train_step(
    layout: Layout, optimizer: torch.optim.Optimizer, batch: text.Windows, step: int, stop: bool
) -> tuple[float, float, bool]:
    """One optimizer step; the loss before it, the norm of its gradient, unclipped, and whether a process is to stop.

    Where one of the numbers is not finite, nothing is changed.
    """
    config = layout.config
    optim.anneal(layout.module, config, step)
    optimizer.zero_grad()
    loss, norm, stops = clip(layout, layout.backward(batch), config.clip, stop)
    if math.isfinite(loss) and math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = optim.learning_rate(config, step)
        optimizer.step()
    return loss, norm, stops


def val_loss(layout: Layout, corpus: text.Corpus) -> float:
    """Mean cross-entropy in nats a byte over the held-out windows, the same ones every time."""
    total, count = torch.zeros((), dtype=torch.float64, device=layout.team.device), 0
    for batch in text.val_batches(corpus, layout.config):
        total += layout.measure(batch)
        count += len(batch[0])
    return layout.team.sum(total)[0] / count
