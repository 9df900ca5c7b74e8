"""What only a device can show: the operators in force, under autograd, torch.compile, autocast and CUDA graphs."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import streammix as sm

on_a_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device is available"),
]


def test_importing_the_package_imports_no_triton():
    code = "import sys, streammix; assert 'triton' not in sys.modules; print([b.name for b in streammix.backends()])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['cpu', 'triton', 'eager']", done.stderr[-1000:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asked where there is no device")
def test_what_cannot_run_says_why():
    why = "'triton' cannot run here: no CUDA or ROCm device is available"
    with pytest.raises(RuntimeError, match=why), sm.backend("triton"):
        pass


class TestOnADevice:
    pytestmark = on_a_device

    def stacks(self, recipe, dtype=torch.float32):
        torch.manual_seed(0)
        here = sm.Stack([nn.Linear(64, 64) for _ in range(4)], 64, recipe=recipe)
        with torch.no_grad():
            for parameter in here.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        there = sm.Stack([nn.Linear(64, 64) for _ in range(4)], 64, recipe=recipe)
        there.load_state_dict(here.state_dict())
        return here, there.cuda(), torch.randn(3, 50, 64, dtype=dtype)

    @pytest.mark.parametrize("recipe", ["mhc", "mhc-sinkhorn", "deepseek-v4", "ihc", "hc", "mhc-lite"])
    def test_a_stack_is_the_same_there(self, recipe):
        here, there, x = self.stacks(recipe)
        one, two = here(x), there(x.cuda())
        torch.testing.assert_close(two.cpu(), one, rtol=1e-4, atol=1e-4)
        grads = [torch.autograd.grad(y.square().mean(), m.parameters()) for y, m in ((one, here), (two, there))]
        for a, b in zip(*grads):
            torch.testing.assert_close(b.cpu(), a, rtol=2e-3, atol=1e-4 * a.abs().max().item() + 1e-7)
        with torch.no_grad():
            torch.testing.assert_close(there(x.cuda()).cpu(), one, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(there(x[:1, :1].cuda()).cpu(), one[:1, :1], rtol=1e-4, atol=1e-4)

    def test_compile_autocast_and_graphs(self):
        _, there, x = self.stacks("mhc")
        x = x.cuda()
        wanted = there(x)
        torch.testing.assert_close(torch.compile(there)(x), wanted, rtol=1e-4, atol=1e-4)
        reduced = torch.compile(there, mode="reduce-overhead")
        for _ in range(3):
            torch.testing.assert_close(reduced(x), wanted, rtol=1e-4, atol=1e-4)
        with torch.no_grad():  # few tokens, between whose branches there is one kernel
            for _ in range(3):
                torch.testing.assert_close(reduced(x[:1, :9]), wanted[:1, :9], rtol=1e-4, atol=1e-4)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert there(x).isfinite().all()
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad():
            there(x)
            with torch.cuda.graph(graph):
                out = there(x)
        graph.replay()
        torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)

    def test_a_run_has_the_same_bits_again(self):
        _, there, x = self.stacks("mhc")
        runs = []
        for _ in range(2):
            y = there(x.cuda())
            runs.append([y, *torch.autograd.grad(y.square().sum(), there.parameters())])
        assert all(torch.equal(a, b) for a, b in zip(*runs))

    def test_on_another_stream(self):
        R = torch.randn(1000, 4, 4, device="cuda")
        wanted = sm.birkhoff(R)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            there = sm.birkhoff(R)
        torch.cuda.current_stream().wait_stream(side)
        assert torch.equal(there, wanted)
