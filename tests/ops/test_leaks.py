"""Native operators give back all memory: a few bytes lost with every call cost gigabytes in a long training, because
what lies between them falls into pieces that nothing fits into."""

import ctypes
import platform

import pytest
import torch
from operator_samples import samples

import streammix as sm

CALLS = 2000
LOST = 4  # bytes a call; less than that is what caches of malloc and Python hold

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc's malloc"),
    pytest.mark.skipif(not any(b.name == "cpu" and b.available for b in sm.backends()), reason="no native kernels"),
]


class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


def bytes_in_use() -> int:
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is None:
        pytest.skip("glibc before 2.33")
    function.restype = MallInfo
    return function().uordblks


def lost(call) -> float:
    """Bytes a call; the least of three counts, because threads that other tests have left take memory, too."""
    for _ in range(CALLS // 4):
        call()
    counts = []
    for _ in range(3):
        before = bytes_in_use()
        for _ in range(CALLS):
            call()
        counts.append((bytes_in_use() - before) / CALLS)
        if counts[-1] < LOST:
            break
    return min(counts)


@pytest.mark.parametrize("name", samples())
def test_operators_lose_no_memory(name, seed):
    op, arguments = getattr(torch.ops.streammix, name).default, samples(torch.float32)[name]
    with torch.no_grad():
        assert lost(lambda: op(*arguments)) < LOST


@pytest.mark.parametrize("recipe", ["mhc", "mhc-sinkhorn", "deepseek-v4"])
@pytest.mark.parametrize("train", [False, True])
def test_sites_lose_no_memory(recipe, train):
    stack = sm.Stack([torch.nn.Identity(), torch.nn.Identity()], 8, recipe=recipe)
    x = torch.randn(2, 8)

    def step():
        with torch.set_grad_enabled(train):
            out = stack(x).sum()
        if train:
            out.backward()
            stack.zero_grad()

    assert lost(step) < LOST
