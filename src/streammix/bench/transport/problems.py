"""What plans are used for: logits (count, m, n) with marginals (count, m) and (count, n)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Drawn = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Problem:
    """count: how many at once; draw: count -> float32 logits, rows and columns."""

    count: int
    draw: Callable[[int], Drawn]


def random(m: int, n: int, decades: float) -> Callable[[int], Drawn]:
    """N(0,1) logits; marginals log-uniform over so many decades, of sum one."""

    def draw(count: int) -> Drawn:
        rows, columns = (10 ** (-decades * torch.rand(count, k)) for k in (m, n))
        return torch.randn(count, m, n), rows / rows.sum(-1, keepdim=True), columns / columns.sum(-1, keepdim=True)

    return draw


def routing(count: int, tokens: int = 64, experts: int = 8) -> Drawn:
    """Tokens to experts: a router's logits, which favour some experts; every token goes somewhere, all experts get as
    many."""
    logits = 2 * torch.randn(count, tokens, experts) + 2 * torch.randn(count, 1, experts)
    return logits, torch.ones(count, tokens), torch.full((count, experts), tokens / experts)


def slots(count: int, inputs: int = 64, slots: int = 7, dim: int = 32) -> Drawn:
    """Slot attention: keys times queries of slots, scaled; every input counts once, all slots take as much."""
    keys, queries = torch.randn(count, inputs, dim), torch.randn(count, slots, dim)
    logits = 3 * keys @ queries.mT / dim**0.5
    return logits, torch.ones(count, inputs), torch.full((count, slots), inputs / slots)


def matching(count: int, n: int = 16, noise: float = 0.1, temperature: float = 0.02) -> Drawn:
    """Points to their noisy copies in another order: minus squared distances over a temperature."""
    points = torch.rand(count, n, 2)
    order = torch.rand(count, n).argsort(-1)
    copies = points.gather(1, order.unsqueeze(-1).expand(count, n, 2)) + noise * torch.randn(count, n, 2) / n**0.5
    return -torch.cdist(points, copies).square() / temperature, torch.ones(count, n), torch.ones(count, n)


def sorting(count: int, n: int = 16, temperature: float = 1e-3) -> Drawn:
    """Soft sorting: numbers to the places of a regular grid (arXiv 1905.11885)."""
    x, grid = torch.rand(count, n, 1), torch.linspace(0, 1, n)
    return -(x - grid).square() / temperature, torch.ones(count, n), torch.ones(count, n)


PROBLEMS = {
    "random 4 x 4": Problem(131072, random(4, 4, 0)),
    "random 4 x 4, 6 decades": Problem(131072, random(4, 4, 6)),
    "routing 64 x 8": Problem(512, routing),
    "slots 64 x 7": Problem(512, slots),
    "matching 16 x 16": Problem(512, matching),
    "sorting 16 x 16": Problem(512, sorting),
}
