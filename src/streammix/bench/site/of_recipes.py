"""One site of every recipe without a branch, against mhc's."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from streammix import recipes
from streammix.bench.timing import interleaved
from streammix.lab.errors import LabError
from streammix.layers.connections import make

BASE = "mhc"
SITE = 1  # the second of a Transformer block, where xhc has its filters
BUDGET = 2.0  # seconds for the samples of one contender; see `interleaved`


def of_recipes(
    *,
    names: Sequence[str] = (),
    dim: int = 512,
    batch: int = 8,
    context: int = 256,
    turns: int = 15,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Seconds of a site, forward and backward, whose branch is the identity, float32: one row a recipe.

    Streams are as many as the recipe says. "over_mhc" is the ratio to a site of mhc with its four streams,
    "over_mhc_of_n" to one of mhc with as many streams as the recipe has: what its state's size alone does not explain.

    Args:
        names: of recipes; all if empty.

    Raises:
        LabError: no recipe has such a name.
    """
    for name in names:
        if name not in recipes.names():
            raise LabError(f"--recipe: got {name}; accepted: {', '.join(recipes.names())}")
    chosen = tuple(dict.fromkeys((BASE, *(names or recipes.names()))))
    streams = {name: recipes.get(name).streams for name in chosen}
    calls = {}
    for name, n in {**{_mhc_of(n): n for n in streams.values()}, **streams}.items():
        progress(name)
        calls[name] = _step(name.partition(" ")[0], n, dim, batch, context)
    timings = interleaved(calls, turns=turns, budget=BUDGET)
    rows = []
    for name, n in streams.items():
        row = {"recipe": name, "n": n, "C": dim, "tokens": batch * context, "seconds": timings[name].median}
        row["over_mhc"] = timings[name].over(timings[BASE])
        row["over_mhc_of_n"] = timings[name].over(timings[_mhc_of(n)])
        rows.append(row)
    return rows


def _mhc_of(n: int) -> str:
    return BASE if n == recipes.get(BASE).streams else f"{BASE} of {n}"


def _step(recipe: str, n: int, dim: int, batch: int, context: int) -> Callable[[], object]:
    torch.manual_seed(0)
    site = make(recipes.get(recipe), lambda u: u, dim, n, SITE)
    begun = site.begin(torch.randn(batch, context, dim))
    state: Any = tuple(_varied(part) for part in begun) if isinstance(begun, tuple) else _varied(begun)
    inputs = state if isinstance(state, tuple) else (state,)
    out = site(state)
    grads = [torch.randn_like(part) for part in (out if isinstance(out, tuple) else (out,))]
    return partial(_gradients, site, state, [*inputs, *site.parameters()], grads)


def _varied(part: Tensor) -> Tensor:
    """Streams that are no longer copies of each other."""
    return (part + 0.1 * torch.randn_like(part)).detach().requires_grad_()


def _gradients(site: Callable[[Any], Any], state: Any, weights: Sequence[Tensor], grads: Sequence[Tensor]) -> object:
    out = site(state)
    return torch.autograd.grad(out if isinstance(out, tuple) else (out,), weights, grads, allow_unused=True)
