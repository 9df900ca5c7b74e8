"""Accuracy and run time of the projection."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from streammix import birkhoff, sinkhorn
from streammix.bench.timing import Timing, interleaved
from streammix.diagnostics import marginal_error

from .contenders import Map, contenders
from .logits import FAMILIES, PUBLISHED_BEST, Family, normal

COPY = "copy of the logits"
OURS = "birkhoff"
BUDGET = 1.0  # seconds for the samples of one contender; see `interleaved`


def accuracy(*, n: int = 4, count: int = 10_000, families: Mapping[str, Family] = FAMILIES) -> list[dict[str, Any]]:
    """Sum of absolute row and column errors a matrix, float32: one row a family and projection."""
    maps: dict[str, Map] = {OURS: birkhoff}
    maps |= {f"sinkhorn-20 {recipe}": _sinkhorn(recipe) for recipe in ("mhc", "deepseek-v4")}
    rows = []
    for family, draw in families.items():
        torch.manual_seed(0)
        logits = draw(count, n)
        for name, project in maps.items():
            error = marginal_error(project(logits).double())
            stats = {"mean": error.mean().item(), "median": error.median().item(), "max": error.max().item()}
            rows.append({"family": family, "projection": name, "n": n, **stats})
        if n == 4 and family in PUBLISHED_BEST:
            rows.append({"family": family, "projection": "best published", "n": n, **PUBLISHED_BEST[family]})
    return rows


def speed(
    *,
    n: int = 4,
    batches: Sequence[int] = (512, 2048, 8192, 32768, 131072),
    families: Mapping[str, Family] | None = None,
    turns: int = 15,
    compile: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Seconds a call, forward and forward + backward: one row a family, batch, pass and contender.

    torch.compile is given each shape by itself (for a batch of any size it makes code two to three times slower), once
    for all families.
    """
    rows = []
    chosen = families or {name: FAMILIES[name] for name in ("N(0,1)", "N(0,10^2)")}
    for batch in batches:
        torch._dynamo.reset()  # past 8 shapes torch.compile gives up on a function, and would be timed uncompiled
        maps = contenders(n, compile=compile)
        for family, draw in chosen.items():
            progress(f"{batch} matrices, {family}")
            torch.manual_seed(0)
            logits = draw(batch, n)
            for which, calls in (("forward", forward(maps, logits)), ("forward+backward", both(maps, logits))):
                timings = interleaved(calls, turns=turns, budget=BUDGET)
                rows += [
                    {
                        "family": family,
                        "n": n,
                        "batch": batch,
                        "pass": which,
                        "contender": name,
                        "seconds": timing.median,
                        "ns_per_matrix": timing.median / batch * 1e9,
                        "over_birkhoff": timing.over(timings[OURS]),
                        "over_copy": timing.over(timings[COPY]),
                    }
                    for name, timing in timings.items()
                ]
    return rows


def by_size(
    *, batch: int = 8192, sizes: Sequence[int] = (2, 3, 4, 5, 6, 7, 8, 12, 16), turns: int = 9
) -> list[dict[str, Any]]:
    """Nanoseconds a matrix against n, N(0,1) logits."""
    rows = []
    for n in sizes:
        torch.manual_seed(0)
        rows += _costs({"n": n}, torch.randn(batch, n, n), turns)
    return rows


def by_scale(
    *, batch: int = 8192, n: int = 4, scales: Sequence[float] = (0.1, 1, 3, 10, 30, 100, 300, 1000), turns: int = 9
) -> list[dict[str, Any]]:
    """Nanoseconds a matrix against the standard deviation of normal logits."""
    rows = []
    for scale in scales:
        torch.manual_seed(0)
        rows += _costs({"scale": scale}, normal(scale)(batch, n), turns)
    return rows


def forward(maps: Mapping[str, Map], logits: Tensor) -> dict[str, Callable[[], object]]:
    """Calls without autograd, the copy first."""
    calls: dict[str, Callable[[], object]] = {COPY: _copy(logits)}
    for name, project in maps.items():
        calls[name] = _no_grad(project, _input(name, logits))
    return calls


def both(maps: Mapping[str, Map], logits: Tensor) -> dict[str, Callable[[], object]]:
    """Calls that also bring a gradient back to the logits."""
    calls: dict[str, Callable[[], object]] = {COPY: _copy(logits)}
    G = torch.randn_like(logits)
    for name, project in maps.items():
        calls[name] = _with_grad(project, _input(name, logits).requires_grad_(), G)
    return calls


def _costs(label: dict[str, Any], logits: Tensor, turns: int) -> list[dict[str, Any]]:
    maps: dict[str, Map] = {OURS: birkhoff, "sinkhorn-20": _sinkhorn("deepseek-v4")}
    rows = []
    for which, calls in (("forward", forward(maps, logits)), ("forward+backward", both(maps, logits))):
        timings: dict[str, Timing] = interleaved(calls, turns=turns, budget=BUDGET)
        for name in maps:
            ns = timings[name].median / len(logits) * 1e9
            rows.append({**label, "pass": which, "contender": name, "ns_per_matrix": ns})
    return rows


def _sinkhorn(recipe: str) -> Map:
    return lambda logits: sinkhorn(logits, recipe=recipe)


def _input(name: str, logits: Tensor) -> Tensor:
    n = logits.shape[-1]
    if name.startswith("permutations"):
        return torch.randn(*logits.shape[:-2], math.factorial(n))
    return logits.detach().clone()


def _copy(logits: Tensor) -> Callable[[], object]:
    target = torch.empty_like(logits)
    return lambda: target.copy_(logits)


def _no_grad(project: Map, logits: Tensor) -> Callable[[], object]:
    def call() -> None:
        with torch.no_grad():
            project(logits)

    return call


def _with_grad(project: Map, logits: Tensor, G: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(project(logits), logits, G)
