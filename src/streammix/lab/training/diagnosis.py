"""What a run's streams do while it trains: a summary of its sites every so many steps, one JSON object a line."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from streammix import diagnostics
from streammix.diagnostics import GainsByDepth, Summary
from streammix.lab import text
from streammix.lab.config import Config
from streammix.lab.files import append, open_own, replace_file
from streammix.lab.maps import labels, unmapped
from streammix.lab.model import GPT
from streammix.lab.training.metrics import lines_of

NAME = "diagnostics.jsonl"
TOKENS = 256  # measured each time, whatever the batch
DIGITS = 5


def read_diagnoses(run: Path) -> dict[int, Summary]:
    """Every summary of a run by step; damaged lines are left out, and what was not finite is NaN."""
    found = (from_line(line) for line in lines_of(run / NAME))
    return dict(filter(None, found))


class Diagnosis:
    """Measures a model on the same held-out text each time, and appends what it finds to a run's diagnostics.jsonl.

    Opening it forgets what was measured after `step`, which the resumed run will measure again. Models whose sites have
    no n x n H_res are not measured.
    """

    def __init__(self, run: Path, step: int, config: Config, corpus: text.Corpus, device: torch.device) -> None:
        self.path, self.config, self.device = run / NAME, config, device
        self.on = config.diagnose_every > 0 and not unmapped(config.recipe)
        self.last = -1
        if not self.on:
            return
        self.tokens = probe(corpus, config).to(device)
        self.file = open_own(self.path, os.O_WRONLY | os.O_APPEND)
        before = {line: found[0] for line in lines_of(self.path) if (found := from_line(line))}
        kept = [line for line, at in before.items() if step and at <= step]
        self.last = max((before[line] for line in kept), default=-1)
        if sum(map(len, kept)) != os.fstat(self.file.fileno()).st_size:
            self.file.close()
            replace_file(self.path, b"".join(kept))
            self.file = open_own(self.path, os.O_WRONLY | os.O_APPEND)

    def due(self, step: int) -> bool:
        return self.on and (step % self.config.diagnose_every == 0 or step == self.config.steps)

    def write(self, step: int, model: GPT) -> None:
        """Measure the model, and append the result unless that step's is there."""
        if not self.on or step <= self.last:
            return
        self.last = step
        append(self.file, self.path, to_line(step, measure(model, self.tokens, bf16=self.config.bf16)))

    def __enter__(self) -> "Diagnosis":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.on:
            self.file.close()


def probe(corpus: text.Corpus, config: Config) -> Int64[Tensor, "windows context"]:
    """Held-out windows with at least TOKENS tokens in all, where a batch has as many; the same ones each time."""
    windows, _ = next(text.val_batches(corpus, dataclasses.replace(config, eval_batches=1)))
    return windows[: max(1, math.ceil(TOKENS / config.context))]


@torch.no_grad()
def measure(model: GPT, tokens: Int64[Tensor, "windows context"], *, bf16: bool = False) -> Summary:
    """A summary of the model's sites on these tokens, with labels for names."""
    with (
        torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16),
        diagnostics.trace(model, states=True) as trace,
    ):
        model(tokens)
    summary = diagnostics.summarize(trace, tokens=TOKENS)
    summary.sites = labels(model, trace.sites())
    return summary


# --- as a line of JSON ------------------------------------------------------------------------------------------


def to_line(step: int, summary: Summary) -> bytes:
    values = {field.name: plain(getattr(summary, field.name)) for field in dataclasses.fields(summary)}
    values["gains"] = {name: plain(tensor) for name, tensor in summary.gains._asdict().items()}
    return json.dumps({"step": step, **values}, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def plain(value: Any) -> Any:
    """Tensors as nested lists of numbers of DIGITS digits, None where one is not finite."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def from_line(line: bytes) -> tuple[int, Summary] | None:
    """The step and the summary that `to_line` wrote; None where the line is damaged."""
    try:
        record = json.loads(line)
        step, sites = record["step"], record["sites"]
        if type(step) is not int or type(record["tokens"]) is not int or not sites:
            return None
        if not all(isinstance(name, str) for name in sites):
            return None
        count, n = len(sites), len(record["read"][0])
        shapes = {"read": (count, n), "write": (count, n), "mix": (count, n, n), "typical": (count, n, n)}
        shapes |= {"spectra": (count, n), "composite": (count, n), "rank": (count,)}
        tensors = {name: as_tensor(record[name], shape) for name, shape in shapes.items()}
        measures = {str(name): as_tensor(values, (count,)) for name, values in record["measures"].items()}
        gains = GainsByDepth(**{name: as_tensor(record["gains"][name], (count,)) for name in GainsByDepth._fields})
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return step, Summary(sites=sites, tokens=record["tokens"], measures=measures, gains=gains, **tensors)


def as_tensor(values: Any, shape: tuple[int, ...]) -> Tensor:
    def numbers(value: Any) -> Any:
        return math.nan if value is None else [numbers(one) for one in value] if isinstance(value, list) else value

    tensor = torch.tensor(numbers(values), dtype=torch.float64)
    if tensor.shape != shape:
        raise ValueError(f"values: got shape {tuple(tensor.shape)}; accepted: {shape}")
    return tensor
