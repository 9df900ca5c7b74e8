"""Native operators give back all memory: a few bytes lost with every call cost gigabytes in a long training, because
what lies between them falls into pieces that nothing fits into."""

import ctypes
import platform

import pytest
import torch

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
    """Bytes a call."""
    for _ in range(CALLS // 4):
        call()
    before = bytes_in_use()
    for _ in range(CALLS):
        call()
    return (bytes_in_use() - before) / CALLS


def operators():
    """Name -> a call."""
    n, C = 4, 8
    R, x, y = torch.randn(2, n, n), torch.randn(2, n, C), torch.randn(2, C)
    weights = torch.rand(2, n)
    T = sm.birkhoff(R)
    ops = torch.ops.streammix
    return {
        "birkhoff": lambda: ops.birkhoff(R, 1e-3),
        "birkhoff_backward": lambda: ops.birkhoff_backward(R, T),
        "cayley": lambda: ops.cayley(R.flatten(1)[:, :6], n),
        "cayley_backward": lambda: ops.cayley_backward(R, R),
        "implicit_sinkhorn": lambda: ops.implicit_sinkhorn(R, 20),
        "sinkhorn": lambda: ops.sinkhorn(R, 20, "transformer-engine"),
        "sinkhorn_backward": lambda: ops.sinkhorn_backward(R, R, 20, "transformer-engine"),
        "read": lambda: ops.read(x, weights),
        "write": lambda: ops.write(x, y, weights, T),
    }


NAMES = ["birkhoff", "birkhoff_backward", "cayley", "cayley_backward", "implicit_sinkhorn"]
NAMES += ["sinkhorn", "sinkhorn_backward", "read", "write"]


@pytest.mark.parametrize("name", NAMES)
def test_operators_lose_no_memory(name):
    call = operators()[name]
    with torch.no_grad():
        assert lost(call) < LOST


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
