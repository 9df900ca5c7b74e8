"""What a run's diagnostics cost beside the training steps between two of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from streammix.bench.timing import interleaved
from streammix.lab.config import Config
from streammix.lab.training.diagnosis import TOKENS, measure

from .models import OURS, STEP_BUDGET, gpt, step_of, text

EVERY = Config().diagnose_every


def diagnosing(
    *,
    n: int = 4,
    dims: Sequence[int] = (128, 512),
    layers: int = 6,
    batch: int = 8,
    context: int = 256,
    turns: int = 5,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Seconds of a training step (forward, loss and backward, float32) and of one measurement of all sites on TOKENS
    tokens, one row a width: "share" is that of the measurements in all, at one every EVERY steps.

    Each step's optimizer would make the share smaller.
    """
    rows = []
    tokens, targets = text(batch, context)
    probe = tokens[: max(1, TOKENS // context)]
    for dim in dims:
        progress(f"dim {dim}")
        model = gpt(OURS, dim, n, layers, batch, context)
        calls: dict[str, Callable[[], object]] = {
            "step": step_of(model, tokens, targets),
            "diagnosis": partial(measure, model, probe),
        }
        timings = interleaved(calls, turns=turns, budget=STEP_BUDGET)
        over = timings["diagnosis"].over(timings["step"])
        row: dict[str, Any] = {"dim": dim, "n": n, "layers": layers, "tokens": batch * context, "every": EVERY}
        row |= {"step": timings["step"].median, "diagnosis": timings["diagnosis"].median}
        rows.append(row | {"share": over / (EVERY + over)})
    return rows
