"""The families of logits that accuracy and run time are measured on."""

from collections.abc import Callable

import torch
from torch import Tensor

Family = Callable[[int, int], Tensor]


def normal(scale: float) -> Family:
    return lambda count, n: scale * torch.randn(count, n, n)


def uniform(scale: float) -> Family:
    return lambda count, n: scale * (2 * torch.rand(count, n, n) - 1)


#: name -> (count, n) -> float32 logits (count, n, n). The first four are those of arXiv 2606.07574's tables.
FAMILIES: dict[str, Family] = {
    "N(0,1)": normal(1),
    "N(0,10^2)": normal(10),
    "Unif(-1,1)": uniform(1),
    "Unif(-10,10)": uniform(10),
    "N(0,100^2)": normal(100),
    "N(0,1000^2)": normal(1000),
    "near identity": lambda count, n: 0.1 * torch.randn(count, n, n) - 8 * (1 - torch.eye(n)),
    "upper triangular": lambda count, n: torch.randn(count, n, n).triu() - 50 * torch.ones(n, n).tril(-1),
    "binary 0/60": lambda count, n: 60.0 * torch.randint(0, 2, (count, n, n)),
    "Cauchy": lambda count, n: torch.empty(count, n, n).cauchy_().clamp(-1e4, 1e4),
}

#: The best published figure of any implementation for each statistic: arXiv 2606.07574, float32, n = 4, 10^4 matrices.
PUBLISHED_BEST: dict[str, dict[str, float]] = {
    "N(0,1)": {"mean": 6.2e-7, "median": 2.6e-7, "max": 2.5e-6},
    "Unif(-1,1)": {"mean": 2.6e-7, "median": 2.5e-7, "max": 7.5e-7},
    "N(0,10^2)": {"mean": 1.6e-3, "median": 9e-7, "max": 9.1e-2},
    "Unif(-10,10)": {"mean": 1.6e-4, "median": 6e-7, "max": 4.7e-2},
}
