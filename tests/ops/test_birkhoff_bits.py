"""Any pattern of bits as logits: the solver ends, and every matrix of finite logits becomes doubly stochastic."""

import math

import pytest
import torch
from families import marginal_error
from torch import Tensor

import streammix as sm

SIZES = {"cpu": (2, 3, 4, 5, 8, 11), "eager": (4, 8)}
BACKENDS = [(b.name, n) for b in sm.backends() if b.available for n in SIZES[b.name]]
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def patterns(count: int, n: int, dtype: torch.dtype) -> Tensor:
    """Half of random bits, so of sizes from 1e-45 to 1e38; half of one random size a matrix."""
    integer = INTEGERS[dtype]
    bits = torch.iinfo(integer)
    R = torch.randint(bits.min, bits.max, (count, n, n), dtype=integer).view(dtype)
    size = torch.rand(count // 2, 1, 1, dtype=torch.float64) * (math.log2(torch.finfo(dtype).max) - 4)
    R[: count // 2] = (2**size * (2 * torch.rand(count // 2, n, n, dtype=torch.float64) - 1)).to(dtype)
    return R


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize(("name", "n"), BACKENDS)
def test_any_bits(name, n, dtype, seed):
    numbers = 1_000_000 if name != "eager" else 3_000
    R = patterns(numbers // n**2 // (1 if dtype == torch.float32 else 10), n, dtype)
    with sm.backend(name):
        T = sm.birkhoff(R)
    finite = R.isfinite().flatten(1).all(-1)
    poisoned = (R.isposinf() | R.isnan()).flatten(1).any(-1)
    assert T[finite].isfinite().all()
    assert (T[finite] >= 0).all()
    assert T[poisoned].isnan().all()
    assert marginal_error(T[finite]).max() <= 10 * n * torch.finfo(dtype).eps
