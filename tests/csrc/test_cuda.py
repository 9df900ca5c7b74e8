"""The CUDA kernel without a device: compiled by nvcc, where there is one; and as plain C++, run on the host.

On the host, results of the device's special functions are off by a unit or two in the last place:
see on_host/cuda_runtime.h.
"""

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from torch import Tensor

from streammix.ops.eager import birkhoff as eager

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "streammix" / "csrc"
KERNEL = SOURCES / "cuda" / "birkhoff.cu"
ON_HOST = Path(__file__).parent / "on_host"
SIZES = [2, 3, 4]
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
#: Most registers a thread, of 255; 96 leave room for twenty warps on a multiprocessor.
REGISTERS = {("birkhoff_kernel", n): most for n, most in {4: 96, 3: 80, 2: 24}.items()}
REGISTERS |= {("birkhoff_backward_kernel", n): most for n, most in {4: 96, 3: 56, 2: 32}.items()}

pytestmark = pytest.mark.timeout(1200)  # most of it to compile, on a busy machine


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{Path(command[0]).name} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------- for a device
@pytest.fixture(scope="module", params=ARCHITECTURES)
def said(request, tmp_path_factory) -> str:
    """What ptxas says of the kernels and of the functions out of line that they call."""
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    target = tmp_path_factory.mktemp("cuda") / "birkhoff.o"
    flags = ["-std=c++20", "-ftz=true", f"-arch={request.param}", "-Xptxas", "-v", "-Werror", "all-warnings"]
    return run(nvcc, *flags, "-I", SOURCES, "-c", KERNEL, "-o", target)


@pytest.mark.parametrize(("kernel", "n"), REGISTERS)
def test_registers(kernel, n, said):
    """Those of a kernel's functions are among its own."""
    (registers,) = re.findall(rf"entry function '\w+?\d{kernel}ILi{n}E(?:.*\n)+?.*Used (\d+) registers", said)
    assert int(registers) <= REGISTERS[kernel, n]


def test_nothing_spills(said):
    spilt = re.findall(r"properties for (\S+)\n.* (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(spilt) >= len(REGISTERS)
    assert [function for function, *counts in spilt if counts != ["0", "0"]] == []


def test_what_few_matrices_need_is_out_of_line(said):
    for function in ("project_far", "first_level", "differentiate_again"):
        assert re.search(rf"Function properties for \w+{function}", said)


# -------------------------------------------------------------------------------------------------------- on the host
class Emulated:
    """The launchers of the kernel, compiled as plain C++, on tensors of the host."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def birkhoff(self, logits: Tensor) -> Tensor:
        T = torch.empty_like(logits)
        code = self.library.streammix_cuda_birkhoff(*pointers(logits, T), *shape(T), ctypes.c_double(0), None)
        assert code == 0
        return T

    def birkhoff_backward(self, grad: Tensor, T: Tensor) -> Tensor:
        out = torch.empty_like(T)
        assert self.library.streammix_cuda_birkhoff_backward(*pointers(grad, T, out), *shape(T), None) == 0
        return out


def pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    assert all(t.is_contiguous() and t.dtype == torch.float32 for t in tensors)
    return [ctypes.c_void_p(t.data_ptr()) for t in tensors]


def shape(T: Tensor) -> tuple[ctypes.c_int, ctypes.c_int64]:
    return ctypes.c_int(T.shape[-1]), ctypes.c_int64(T.shape[0])


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> Emulated:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: set CXX, or install g++ or clang++")
    library = tmp_path_factory.mktemp("emulated") / "birkhoff.so"
    # A device fuses products and sums, and so does a host that can.
    fused = ["-mfma"] if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else []
    flags = ["-x", "c++", "-std=c++20", "-O2", "-Wall", "-Werror", "-fPIC", "-shared", *fused]
    run(compiler, *flags, "-I", ON_HOST, "-I", SOURCES, KERNEL, "-o", library)
    return Emulated(library)


def _on_a_permutation(size: float) -> Callable[[int, int], Tensor]:
    def draw(count: int, n: int) -> Tensor:
        return size * torch.eye(n)[torch.rand(count, n).argsort(-1)] + torch.randn(count, n, n)

    return draw


def _masked(count: int, n: int) -> Tensor:
    """-inf outside two random permutations."""
    allowed = sum(torch.eye(n)[torch.rand(count, n).argsort(-1)] for _ in range(2))
    return torch.where(allowed > 0, 3 * torch.randn(count, n, n), -torch.inf)


CASES = FAMILIES | {"8 on a permutation": _on_a_permutation(8), "16": _on_a_permutation(16), "-inf": _masked}
SMALLEST, LEAST_GRADIENT = 1e-12, 1e-20  # as in test_birkhoff_digits.py, and so are the bounds


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("family", CASES)
def test_every_digit(family, n, emulated, seed):
    R = CASES[family](1001, n)
    G = torch.randn_like(R)
    ours = emulated.birkhoff(R)
    T = eager.birkhoff(R.double())
    off = (ours.double() - T).abs()
    assert (off <= torch.where(T > SMALLEST, 2e-5 * T, SMALLEST)).all(), (off / T)[T > SMALLEST].max()
    assert (ours[R.isneginf()] == 0).all()

    D = eager.birkhoff_backward(G.double(), T)
    largest = D.abs().amax((-1, -2), keepdim=True).clamp(min=LEAST_GRADIENT)
    wrong = (emulated.birkhoff_backward(G, ours).double() - D).abs()
    assert (wrong <= 5e-5 * largest).all(), (wrong / largest).max()


@pytest.mark.parametrize("n", SIZES)
def test_potentials_in_the_gradient_change_nothing(n, emulated, seed):
    T = emulated.birkhoff(torch.randn(1001, n, n))
    G = torch.randn_like(T) + 1e4 * torch.randn(1001, n, 1) + 1e4 * torch.randn(1001, 1, n)
    D = eager.birkhoff_backward(G.double(), T.double())
    wrong = (emulated.birkhoff_backward(G, T).double() - D).abs()
    # Taken off twice, each time to eps of what was there. By chance G is potentials alone, and D exactly zero.
    left = G.abs().amax((-1, -2), keepdim=True) * torch.finfo(torch.float32).eps ** 2
    assert (wrong <= 5e-5 * D.abs().amax((-1, -2), keepdim=True) + left).all()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_logit_that_is_no_number_poisons_its_own_matrix(bad, n, emulated, seed):
    R = 10 * torch.randn(300, n, n)
    expected = emulated.birkhoff(R)
    poisoned = torch.rand(300) < 0.3
    at = torch.randint(n * n, (300,))
    R[poisoned, at[poisoned] // n, at[poisoned] % n] = bad
    T = emulated.birkhoff(R)
    assert T[poisoned].isnan().all()
    assert (T[~poisoned] == expected[~poisoned]).all()


@pytest.mark.parametrize("n", SIZES)
def test_a_mask_without_a_solution_gives_nan(n, emulated):
    R = torch.zeros(3, n, n)
    R[0, 0] = -torch.inf
    R[1, 0, 1:] = -torch.inf  # row 0 takes all of column 0, in which other rows have finite logits
    T = emulated.birkhoff(R)
    assert T[:2].isnan().all()
    assert T[2].isfinite().all()


def test_other_sizes_and_unaligned_memory_are_refused(emulated):
    call = emulated.library.streammix_cuda_birkhoff
    x = torch.zeros(100)
    assert call(*pointers(x, x), 5, ctypes.c_int64(1), ctypes.c_double(0), None) == 1
    assert call(*pointers(x[1:], x), 4, ctypes.c_int64(1), ctypes.c_double(0), None) == 716
