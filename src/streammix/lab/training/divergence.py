"""What is done when a run's loss or gradient is no longer finite: say where it began, and keep what there is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streammix.diagnostics import NonFinite, first_non_finite
from streammix.lab.errors import Diverged, LabError
from streammix.lab.files import read_json, write_json
from streammix.lab.model import GPT

NAME = "diverged.json"


def explained(error: Diverged, run: Path, model: GPT, loss: Callable[[], Tensor]) -> Diverged:
    """The same with the site where it began, which diverged.json in the run's folder holds too.

    loss: computes that step's loss again, of the same model.
    """
    found = culprit(model, loss)
    write_json(run / NAME, record(error, found))
    where = f"first not finite: {found}" if found else "at every site both passes are finite"
    if not hasattr(model.stack, "streams"):
        where = "a plain residual model has no sites to look at"
    kept = f"; {run / NAME} and a checkpoint of step {error.step - 1} are there" if error.step > 1 else ""
    return Diverged(error.loss, error.grad_norm, error.step, error.config, where + kept)


def culprit(model: GPT, loss: Callable[[], Tensor]) -> NonFinite | None:
    """The first thing at a site that is not finite, forward or backward."""
    model.zero_grad()
    with torch.enable_grad(), first_non_finite(model) as found:
        loss().backward()
    model.zero_grad()
    return found.first


def record(error: Diverged, found: NonFinite | None) -> dict[str, Any]:
    """As JSON, which has no NaN: numbers that are not finite are words."""
    values = {"step": error.step, "loss": f"{error.loss:g}", "grad_norm": f"{error.grad_norm:g}"}
    return values | {"first": dataclasses.asdict(found) | {"text": str(found)} if found else None}


def reason(run: Path) -> str:
    """Why the run has ended early, in a few words; empty if it has not."""
    path = run / NAME
    if not path.exists():
        return ""
    saved = read_json(path)
    try:
        first, step, loss = saved["first"], saved["step"], saved["loss"]
        where = f", first in {first['text']}" if first else ""
        return f"diverged at step {step:d} with loss {loss}{where}"
    except (KeyError, TypeError, ValueError):
        raise LabError(f"{path}: not what a diverged run leaves") from None
