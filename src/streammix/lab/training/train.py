"""One training run, from top to bottom: `train` is the whole story, the rest are its steps."""

import contextlib
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from streammix.lab import text
from streammix.lab.config import Config, read_config
from streammix.lab.errors import Diverged, LabError
from streammix.lab.files import SCRATCH, clear_scratch, locked, read_json, write_json
from streammix.lab.machine import cpu_threads, peak_memory, pick_device
from streammix.lab.model import GPT
from streammix.lab.training import checkpoint, optim
from streammix.lab.training.diagnosis import Diagnosis
from streammix.lab.training.divergence import NAME as DIVERGED
from streammix.lab.training.divergence import explained
from streammix.lab.training.metrics import Metrics, read_metrics
from streammix.lab.training.progress import Display


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after a checkpoint of the last step was written."""


def train(config: Config, run: Path, *, resume: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Train a model in the folder `run` and return its summary (also in RUN/summary.json).

    Writes config.json, metrics.jsonl, diagnostics.jsonl, tensorboard/, checkpoints/ and at the end summary.json. With
    `resume`, a run that is there goes on from its newest checkpoint; on the CPU, with as many threads, the result is
    bit for bit that of a run never stopped, whenever and however it was stopped.

    Raises:
        LabError: the folder is in use, or holds something else than this run; the text or a checkpoint is bad;
            the loss is no longer finite (a Diverged, which says at which site it began; the last good step is kept).
        OSError: the disk is full or not writable.
        Interrupted: Ctrl-C; a checkpoint has been written.
    """
    corpus = text.load(config.text)
    text.require_length(corpus, config.context)
    config = text.with_vocabulary(config, corpus)
    device = pick_device(config)
    with torch.device("meta"):
        GPT(config)  # a width or a number of streams that the recipe can't take is said before anything is written

    with reserved(run), cpu_threads(config.threads):
        prepare_folder(run, config, resume)
        if (run / "summary.json").exists():
            return read_json(run / "summary.json")

        start, troubles = checkpoint.latest(run)
        if start is not None:
            require_same_settings(start, config)
            checkpoint.require_size(start)
        model = GPT(config).to(device)
        optimizer = optim.adamw(model, config)
        step = 0
        counters: dict[str, Any] = {"seconds": 0.0, "peak_memory_bytes": 0, "data_sha256": corpus.sha256}
        if start is not None:
            checkpoint.restore(start, model, optimizer)
            step, counters = start.step, dict(start.counters)
            if counters["data_sha256"] != corpus.sha256:
                raise LabError(f"{run}: the text has changed since this run began; start another run")

        with (
            Metrics(run, step) as metrics,
            Diagnosis(run, step, config, corpus, device) as diagnosis,
            Display(config.recipe, step, config.steps, console) as display,
            delayed_interrupt(comparing_parent()) as interrupted,
        ):
            for trouble in troubles:
                display.say(f"warning: {trouble}; going on from step {step}")
            if metrics.damaged:
                display.say(f"warning: {metrics.path}: {metrics.damaged} damaged lines are left out")

            def measure() -> float:
                loss = val_loss(model, corpus, config, device)
                metrics.write(step, "val", loss=loss)
                pace = counters["seconds"] / step if step else 0.0
                display.val(step, loss, pace * (config.steps - step))
                return loss

            if step == 0 or (step == config.steps and not was_measured(run, step)):
                measure()
            if step == 0:
                diagnosis.write(step, model)
            while step < config.steps:
                step += 1
                began = time.perf_counter()
                try:
                    loss, grad_norm = train_step(model, optimizer, corpus, config, step, device)
                except Diverged as error:
                    if step > 1:
                        metrics.sync()
                        checkpoint.save(run, step - 1, model, optimizer, counters)
                        diagnosis.write(step - 1, model)
                    again = partial(batch_loss, model, corpus, config, step, device)
                    raise explained(error, run, model, again) from None
                elapsed = time.perf_counter() - began
                counters["seconds"] += elapsed
                tokens = config.batch * config.context
                metrics.write(
                    step,
                    "train",
                    loss=loss,
                    grad_norm=grad_norm,
                    lr=optim.learning_rate(config, step),
                    tokens=step * tokens,
                    seconds=counters["seconds"],
                    tokens_per_s=tokens / elapsed,
                )
                display.train(step, loss, tokens / elapsed)
                if step % config.eval_every == 0 or step == config.steps:
                    measure()
                if diagnosis.due(step):
                    diagnosis.write(step, model)
                if step % config.checkpoint_every == 0 or step == config.steps or interrupted():
                    counters["peak_memory_bytes"] = max(counters["peak_memory_bytes"], peak_memory(device))
                    metrics.sync()
                    checkpoint.save(run, step, model, optimizer, counters)
                if interrupted() and step < config.steps:
                    raise Interrupted(f"stopped after step {step} of {config.steps}, checkpoint written")

        summary = summarize(run, model, config, counters, corpus)
        write_json(run / "summary.json", summary)
        return summary


def train_step(
    model: GPT, optimizer: torch.optim.Optimizer, corpus: text.Corpus, config: Config, step: int, device: torch.device
) -> tuple[float, float]:
    """One optimizer step on batch number `step`; returns the loss before it and the norm of its gradient, unclipped.

    Raises:
        Diverged: one of them is not finite; the weights are those before the step.
    """
    optim.anneal(model, config, step)
    optimizer.zero_grad()
    loss = torch.zeros((), device=device)
    for share in shares(model, corpus, config, step, device):
        share.backward()
        loss += share.detach()
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    for group in optimizer.param_groups:
        group["lr"] = optim.learning_rate(config, step)
    if not (torch.isfinite(loss) and torch.isfinite(grad_norm)):
        raise Diverged(loss.item(), grad_norm.item(), step, config)
    optimizer.step()
    return loss.item(), grad_norm.item()


def batch_loss(model: GPT, corpus: text.Corpus, config: Config, step: int, device: torch.device) -> torch.Tensor:
    """The loss of batch number `step`."""
    return torch.stack(list(shares(model, corpus, config, step, device))).sum()


def shares(model: GPT, corpus: text.Corpus, config: Config, step: int, device: torch.device) -> Iterator[torch.Tensor]:
    """What each pass over batch number `step` adds to its loss."""
    for inputs, targets in in_passes(text.train_batch(corpus, config, step), config, device):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            yield model.loss(inputs, targets) * (len(inputs) / config.batch)


@torch.no_grad()
def val_loss(model: GPT, corpus: text.Corpus, config: Config, device: torch.device) -> float:
    """Mean cross-entropy in nats a token over the held-out windows, the same ones every time."""
    total, count = 0.0, 0
    for batch in text.val_batches(corpus, config):
        for inputs, targets in in_passes(batch, config, device):
            with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                total += model.loss(inputs, targets).item() * len(inputs)
            count += len(inputs)
    return total / count


def in_passes(batch: text.Windows, config: Config, device: torch.device) -> Iterator[text.Windows]:
    """A batch on the device, in as many parts as the memory for one pass asks for."""
    parts = (part.to(device).split(config.windows or len(part)) for part in batch)
    return zip(*parts)


def summarize(run: Path, model: GPT, config: Config, counters: dict[str, Any], corpus: text.Corpus) -> dict[str, Any]:
    """The run in a dozen numbers.

    train_loss is the mean over the last twentieth of the steps, tokens_per_s the median step's: neither the first steps
    nor whatever else the machine did for a while count much.
    """
    records = read_metrics(run)
    training = [record for record in records if record["kind"] == "train" and record.keys() >= TRAINING]
    if not training:
        raise LabError(f"{run}: its measurements are gone (metrics.jsonl); the checkpoints hold the trained model")
    grad_norms = [record["grad_norm"] for record in training]
    names = dict(model.named_parameters())
    val_loss = [record["loss"] for record in records if record["kind"] == "val"][-1]
    return {
        "recipe": config.recipe,
        "streams": model.streams,
        "steps": config.steps,
        "tokens": config.steps * config.batch * config.context,
        "parameters": sum(p.numel() for p in names.values()),
        "connection_parameters": sum(p.numel() for name, p in names.items() if model.is_connection(name)),
        "val_loss": val_loss,
        "bits_per_byte": val_loss * corpus.tokens_per_byte / math.log(2),
        "train_loss": statistics.fmean(record["loss"] for record in training[-max(1, config.steps // 20) :]),
        "grad_norm_median": statistics.median(grad_norms),
        "grad_norm_last": grad_norms[-1],
        "grad_norm_max": max(grad_norms),
        "tokens_per_s": statistics.median(record["tokens_per_s"] for record in training),
        **counters,
    }


TRAINING = {"loss", "grad_norm", "tokens_per_s"}  # what a summary takes from each step's record


def was_measured(run: Path, step: int) -> bool:
    """Whether the validation loss after this step is on record."""
    return any(record["kind"] == "val" and record["step"] == step for record in read_metrics(run))


# --- stopping --------------------------------------------------------------------------------------------------


def comparing_parent() -> int | None:
    """The process that started this one to train for it, as a comparison does."""
    parent = os.environ.get(PARENT, "")
    return int(parent) if parent.isdigit() else None


PARENT = "STREAMMIX_PARENT"


@contextlib.contextmanager
def delayed_interrupt(parent: int | None = None) -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C (or SIGTERM, SIGHUP) makes the yielded function true, and cuts no step in half.

    So does the end of the parent process, where one is given: nobody would wait for the result.
    """
    seen = threading.Event()
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may handle signals
        heeded = [one for one in STOP_SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]  # nohup ignores SIGHUP
        before = {one: signal.signal(one, lambda *_: seen.set()) for one in heeded}
    try:
        yield lambda: seen.is_set() or (parent is not None and os.getppid() != parent)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


# --- the run's folder -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reserved(run: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it when the process ends, however it ends."""
    if run.exists() and not run.is_dir():
        raise LabError(f"{run}: is a file; --out must be a folder")
    if run.exists() and not (run / "config.json").exists() and any(is_foreign(path) for path in run.iterdir()):
        raise LabError(f"{run}: the folder is not empty and holds no run; choose another --out")
    run.mkdir(parents=True, exist_ok=True)
    with locked(run / ".lock", wait=False) as held:
        if not held:
            raise LabError(f"{run}: another process is training here")
        yield


def require_same_settings(start: checkpoint.Checkpoint, config: Config) -> None:
    """Raise LabError where a checkpoint was trained with other settings than the run is to go on with."""
    for name, kinds in (("seconds", (int, float)), ("peak_memory_bytes", (int,)), ("data_sha256", (str,))):
        if not isinstance(start.counters.get(name), kinds):
            raise LabError(f"{start.path}: corrupt checkpoint (counter {name!r} is missing or of the wrong kind)")
    if different := config.differences(start.config, ignore=("threads", "device")):
        raise LabError(f"{start.path}: the checkpoint there has other settings: {', '.join(different)}")


def is_foreign(path: Path) -> bool:
    """Whether a file in a run's folder without config.json is something else than a trace of a run killed early."""
    return path.name != ".lock" and not path.name.startswith(SCRATCH)


def prepare_folder(run: Path, config: Config, resume: bool) -> None:
    """Make `run` this config's folder, or raise LabError having changed nothing."""
    saved = run / "config.json"
    if saved.exists():
        if not resume:
            raise LabError(f"{run}: holds a run already; add --resume to continue it, or choose another --out")
        if different := config.differences(read_config(saved), ignore=("threads",)):
            raise LabError(f"{run}: the run there has other settings: {', '.join(different)}")
    else:
        write_json(saved, config.to_dict())
    (run / DIVERGED).unlink(missing_ok=True)
    clear_scratch(run)
    clear_scratch(run / "checkpoints")
