"""Threads may have stacks of 128 KiB, musl's default: every operator works there, for every number of streams."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading, torch, streammix as sm
from streammix.compat.hyper_connections import HyperConnections
n, dtype = int(sys.argv[1]), getattr(torch, sys.argv[2])
torch.manual_seed(0)
failed = []

def work():
    try:
        x, y = (torch.randn(*shape, 40, dtype=dtype, requires_grad=True) for shape in ((3, n), (3,)))
        R = (3 * torch.randn(3, n, n)).requires_grad_()
        H = sm.birkhoff(R)
        for recipe in ("mhc", "deepseek-v4", "megatron"):
            H = H + sm.sinkhorn(R, rounds=3, recipe=recipe)
        out = sm.write(x, y, torch.ones(3, n), H)
        sm.read(out, torch.ones(3, n)).float().square().sum().backward()
        assert R.grad.isfinite().all()
        if dtype == torch.float32:
            sm.birkhoff((300 * torch.randn(3, n, n)).requires_grad_()).square().sum().backward()
            if 1 < n <= 64:  # beyond, torch's own float64 products, which on AVX-512 machines need more
                sm.manifolds.Stiefel(n)(torch.randn(3, n * n, requires_grad=True)).square().sum().backward()
                t = torch.randn(3, (n - 1) ** 2, requires_grad=True)
                sm.manifolds.Transportation(n)(t).square().sum().backward()
        for recipe in ("mhc", "xhc") if n >= 4 else ("mhc",):
            stack = sm.Stack([torch.nn.Tanh(), torch.nn.Tanh()], 40, n, recipe).to(dtype)
            stack(torch.randn(30, 40, dtype=dtype, requires_grad=True)).float().square().sum().backward()
        stack = sm.Stack([torch.nn.Tanh(), torch.nn.Tanh()], 40, n).to(dtype)
        rows = HyperConnections(n, dim=40, branch=torch.nn.Tanh(), layer_index=0)
        rows(torch.randn(2 * n, 20, 40, dtype=dtype, requires_grad=True)).float().square().sum().backward()
        with torch.inference_mode():
            stack(torch.randn(1, 40, dtype=dtype))
    except BaseException as error:
        failed.append(repr(error))

torch.autograd.set_multithreading_enabled(False)  # the backward pass, too, in the small thread
torch.set_num_threads(1)
threading.stack_size(128 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert not failed, failed
print("survived")
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 16, 33, 64, 70])
def test_every_operator_in_a_thread_of_128_kib(n, dtype):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(n), dtype], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-1500:]}"
    assert done.stdout.strip() == "survived"
