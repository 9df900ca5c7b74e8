"""Every digit of the projection and of its gradient, against 50 digits: cases drawn anew at every run.

The promise: in float32 the relative error of an entry above 1e-12 is at most 2e-5, that of the gradient against its own
largest entry at most 5e-5; in float64 1e-12. For masked logits as for the rest; what -inf masks is exactly zero.
"""

import precise
import pytest
import torch
from families import CASES

import streammix as sm

BACKENDS = [b.name for b in sm.backends() if b.available]
SMALLEST = 1e-12
LEAST_GRADIENT = 1e-20  # one whose largest entry is less is as little right as entries of T below SMALLEST


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
