"""Every digit of the projection and of its gradient, against 50 digits: cases drawn anew at every run.

The promise: in float32 the relative error of an entry above 1e-12 is at most 2e-5, that of the gradient against its own
largest entry at most 5e-5; in float64 1e-12. For masked logits as for the rest; what -inf masks is exactly zero.
"""

from collections.abc import Callable

import precise
import pytest
import torch
from families import FAMILIES
from torch import Tensor

import streammix as sm

BACKENDS = [b.name for b in sm.backends() if b.available]
SMALLEST = 1e-12
LEAST_GRADIENT = 1e-20  # one whose largest entry is less is as little right as entries of T below SMALLEST


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


CASES = FAMILIES | {
    "8 to 30 on a permutation": _around_a_permutation,
    "-inf": _masked,
    **{f"blocks {apart:g}": _blocks(apart, shuffled=False) for apart in (-16.0, -1e4, -1e9, -3e38)},
    **{f"blocks {apart:g}, shuffled": _blocks(apart, shuffled=True) for apart in (-16.0, -1e4, -1e9)},
    "a block apart, with gaps": lambda count, n: _blocks(-3e38, shuffled=False)(count, n) + _gaps(count, n),
}


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 16])
@pytest.mark.parametrize("family", CASES)
def test_every_digit(family, n, seed):
    count = 3 if n <= 5 else 1
    R, G = CASES[family](count, n), torch.randn(count, n, n)
    exact_T = [precise.project(r.tolist()) for r in R]
    exact_D = [precise.gradient(t, g.tolist()) for t, g in zip(exact_T, G)]
    T, D = (
        torch.tensor([[[float(x) for x in row] for row in m] for m in ms], dtype=torch.float64)
        for ms in (exact_T, exact_D)
    )
    largest = D.abs().amax((-1, -2), keepdim=True)
    for backend in BACKENDS:
        for dtype, entry, slope in ((torch.float32, 2e-5, 5e-5), (torch.float64, 1e-12, 1e-12)):
            logits = R.to(dtype).requires_grad_()
            with sm.backend(backend):
                ours = sm.birkhoff(logits)
                (grad,) = torch.autograd.grad(ours, logits, G.to(dtype))
            off = (ours.double() - T).abs()
            assert (off <= torch.where(T > SMALLEST, entry * T, SMALLEST)).all(), (
                backend,
                dtype,
                (off / T)[T > SMALLEST].max(),
            )
            wrong = (grad.double() - D).abs()
            assert (wrong <= slope * largest.clamp(min=LEAST_GRADIENT)).all(), (backend, dtype, (wrong / largest).max())
            masked = R.isneginf()
            assert (ours[masked] == 0).all()
            assert (grad[masked] == 0).all()
