"""Whole models: the lab's GPT with plain residuals and with hyper-connections."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from streammix.bench.timing import interleaved
from streammix.lab.config import RESIDUAL, Config
from streammix.lab.model import GPT
from streammix.ops.backend import backend

OURS = "mhc"
EAGER, COMPILED = ", eager backend", ", compiled"
STEP_BUDGET, TOKEN_BUDGET = 12.0, 2.0  # seconds for the samples of one contender; see `interleaved`

TOKENS = 8  # decoded one after the other in one sample: a model's weights are then no colder than in use

Progress = Callable[[str], None]


def gpt(recipe: str, dim: int, n: int, layers: int, batch: int = 1, context: int = 1) -> GPT:
    """The lab's model, with heads of 64 channels where they divide dim."""
    heads = dim // 64 if dim % 64 == 0 else 1
    config = Config(streams=n, dim=dim, heads=heads, layers=layers, batch=batch, context=context, seed=0)
    return GPT(config.joined_by(recipe))


def text(batch: int, context: int) -> tuple[Tensor, Tensor]:
    """Random bytes and what comes after each."""
    tokens = torch.randint(0, 256, (batch, context + 1), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


def training_step(
    *,
    n: int = 4,
    dims: Sequence[int] = (512, 1024),
    layers: int = 6,
    batch: int = 8,
    context: int = 256,
    turns: int = 5,
    compile: bool = True,
    progress: Progress = lambda _: None,
) -> list[dict[str, Any]]:
    """Seconds of forward, loss and backward, float32; no optimizer, whose work is the same for all.

    One row a width and model. "ratio" is to the plain residual model, `base`: for compiled models the compiled one.
    Under torch.compile what repeats is compiled by itself, as is usual: it is no slower than the model compiled as a
    whole, which takes minutes. That is a plain site, the addition included; and of ours the branch, since the
    operators are compiled already, and sites that are compiled by themselves do not share passes over the state.
    """
    rows = []
    tokens, targets = text(batch, context)
    for dim in dims:
        torch._dynamo.reset()
        calls: dict[str, Callable[[], object]] = {}
        for recipe in (RESIDUAL, OURS):
            calls[recipe] = step_of(gpt(recipe, dim, n, layers, batch, context), tokens, targets)
        calls[OURS + EAGER] = _in_eager(calls[OURS])
        for recipe in (RESIDUAL, OURS) if compile else ():
            model = gpt(recipe, dim, n, layers, batch, context)
            for site in model.stack.sites:
                part: Any = site if recipe == RESIDUAL else site.branch
                part.compile(dynamic=False)
            calls[recipe + COMPILED] = step_of(model, tokens, targets)
        timings = interleaved(
            {name: _announced(call, f"dim {dim}, {name}", progress) for name, call in calls.items()},
            turns=turns,
            budget=STEP_BUDGET,
        )
        for name, timing in timings.items():
            base = RESIDUAL + COMPILED if name.endswith(COMPILED) else RESIDUAL
            row = {"dim": dim, "n": n, "layers": layers, "tokens": batch * context, "model": name}
            rows.append(row | {"seconds": timing.median, "base": base, "ratio": timing.over(timings[base])})
    return rows


def decoding(
    *, n: int = 4, dims: Sequence[int] = (512,), layers: int = 6, turns: int = 15, progress: Progress = lambda _: None
) -> list[dict[str, Any]]:
    """Seconds of a forward pass of one token without gradients, float32: one row a width and model.

    The model keeps no cache of keys and values: this is what a cache would leave to do, without attending to it.
    "us_per_site": microseconds that a site takes beyond a plain residual one.
    """
    rows = []
    token = torch.zeros(1, 1, dtype=torch.int64)
    for dim in dims:
        progress(f"dim {dim}")
        ours = _forward(gpt(OURS, dim, n, layers), token)
        calls = {RESIDUAL: _forward(gpt(RESIDUAL, dim, n, layers), token), OURS: ours, OURS + EAGER: _in_eager(ours)}
        timings = interleaved(calls, turns=turns, budget=TOKEN_BUDGET)
        for name, timing in timings.items():
            more = timing.minus(timings[RESIDUAL]) / (2 * layers * TOKENS) * 1e6
            row = {"dim": dim, "n": n, "layers": layers, "model": name, "seconds": timing.median / TOKENS}
            rows.append(row | {"ratio": timing.over(timings[RESIDUAL]), "us_per_site": more})
    return rows


def step_of(model: GPT, tokens: Tensor, targets: Tensor) -> Callable[[], object]:
    def step() -> None:
        model.zero_grad()
        model.loss(tokens, targets).backward()

    return step


def _forward(model: GPT, tokens: Tensor) -> Callable[[], object]:
    return torch.no_grad()(lambda: model(tokens))


def _in_eager(call: Callable[[], object]) -> Callable[[], object]:
    def in_eager() -> object:
        with backend("eager"):
            return call()

    return in_eager


def _announced(call: Callable[[], object], text: str, progress: Progress) -> Callable[[], object]:
    def announced() -> object:
        progress(text)
        return call()

    return announced
