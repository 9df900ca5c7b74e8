"""Families of logits on which projections are tested: the published tables' and harder ones."""

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


def marginal_error(H: Tensor) -> Tensor:
    """Sum of absolute row and column errors of each matrix, measured in float64."""
    H = H.double()
    return (H.sum(-1) - 1).abs().sum(-1) + (H.sum(-2) - 1).abs().sum(-1)
