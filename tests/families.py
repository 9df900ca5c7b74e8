"""Families of logits on which projections are tested: the published tables' and harder ones."""

from collections.abc import Callable

import torch
from torch import Tensor


def _binary(count: int, n: int, size: float) -> Tensor:
    return size * torch.randint(0, 2, (count, n, n)).float()


def _permuted(count: int, n: int, size: float) -> Tensor:
    """Each matrix favours one permutation by `size`."""
    order = torch.rand(count, n).argsort(-1)
    return size * torch.nn.functional.one_hot(order, n).float() + torch.randn(count, n, n)


FAMILIES = {
    "N(0,1)": lambda count, n: torch.randn(count, n, n),
    "N(0,10^2)": lambda count, n: 10 * torch.randn(count, n, n),
    "Unif(-1,1)": lambda count, n: 2 * torch.rand(count, n, n) - 1,
    "Unif(-10,10)": lambda count, n: 20 * torch.rand(count, n, n) - 10,
    "N(0,100^2)": lambda count, n: 100 * torch.randn(count, n, n),
    "N(0,1000^2)": lambda count, n: 1000 * torch.randn(count, n, n),
    "near identity": lambda count, n: 0.1 * torch.randn(count, n, n) - 8 * (1 - torch.eye(n)),
    "upper triangular": lambda count, n: torch.randn(count, n, n).triu() - 50 * torch.ones(n, n).tril(-1),
    "binary 0/60": lambda count, n: _binary(count, n, 60.0),
    "Cauchy": lambda count, n: torch.empty(count, n, n).cauchy_().clamp(-1e4, 1e4),
    "near permutation": lambda count, n: _permuted(count, n, 30.0),
    "ties 0/1e30": lambda count, n: _binary(count, n, 1e30),
    "N(0,1e37^2)": lambda count, n: 1e37 * torch.randn(count, n, n),
    "subnormal": lambda count, n: 1e-40 * torch.randn(count, n, n),
    "rows and columns shifted": lambda count, n: (
        torch.randn(count, n, n) + 40 * torch.randn(count, n, 1) + 40 * torch.randn(count, 1, n)
    ),
}


def _around_a_permutation(count: int, n: int) -> Tensor:
    size = 8 + 22 * torch.rand(count, 1, 1)
    return size * torch.nn.functional.one_hot(torch.rand(count, n).argsort(-1), n).float() + torch.randn(count, n, n)


def _blocks(apart: float, *, shuffled: bool) -> Callable[[int, int], Tensor]:
    def draw(count: int, n: int) -> Tensor:
        other = torch.arange(n) < max(1, n // 2)
        R = torch.randn(count, n, n) + apart * (other.unsqueeze(-1) != other)
        return torch.stack([r[torch.randperm(n)][:, torch.randperm(n)] for r in R]) if shuffled else R

    return draw


def _gaps(count: int, n: int) -> Tensor:
    """20 on the identity: entries of 2e-9, which must not be taken for zero on the long way down from 3e38."""
    return 20 * torch.eye(n).expand(count, n, n)


def _masked(count: int, n: int) -> Tensor:
    """-inf outside two or three permutations."""
    allowed = torch.zeros(count, n, n, dtype=torch.bool)
    for _ in range(int(torch.randint(2, 4, ()))):
        allowed |= torch.nn.functional.one_hot(torch.rand(count, n).argsort(-1), n).bool()
    return torch.where(allowed, 3 * torch.randn(count, n, n), -torch.inf)


#: With logits whose every digit is hard to keep.
CASES = FAMILIES | {
    "8 to 30 on a permutation": _around_a_permutation,
    "-inf": _masked,
    **{f"blocks {apart:g}": _blocks(apart, shuffled=False) for apart in (-16.0, -1e4, -1e9, -3e38)},
    **{f"blocks {apart:g}, shuffled": _blocks(apart, shuffled=True) for apart in (-16.0, -1e4, -1e9)},
    "a block apart, with gaps": lambda count, n: _blocks(-3e38, shuffled=False)(count, n) + _gaps(count, n),
}


def marginal_error(H: Tensor) -> Tensor:
    """Sum of absolute row and column errors of each matrix, measured in float64."""
    H = H.double()
    return (H.sum(-1) - 1).abs().sum(-1) + (H.sum(-2) - 1).abs().sum(-1)
