"""The native projection gives one matrix one result: in any batch, on any number of threads, on any instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES

import streammix as sm

pytestmark = pytest.mark.skipif(not sm.ops.cpu.status().available, reason="the native library is not built")

ISAS = ("avx512", "avx2", "baseline")
PROJECT = """
import sys
import torch
import streammix as sm
R, G = torch.load(sys.argv[1])
R.requires_grad_()
T = sm.birkhoff(R)
torch.save((T.detach(), *torch.autograd.grad(T, R, G)), sys.argv[2])
"""


def both(R: torch.Tensor, G: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The projection and its gradient."""
    R = R.detach().requires_grad_()
    T = sm.birkhoff(R)
    return T.detach(), torch.autograd.grad(T, R, G)[0]


def logits(count: int, n: int) -> torch.Tensor:
    """Gentle and hard ones side by side, so that neighbours need different numbers of steps, and take different ways:
    squares alone, the last level formed, all formed; masks, with an entry at either end of a row; ties."""
    scales = torch.tensor([0.1, 1.0, 10.0, 100.0, 3e4, 1e9, 1e30]).repeat(count)[:count]
    R = scales.view(-1, 1, 1) * torch.randn(count, n, n)
    R[5::11, 0, 0] = R[5::11, 0, -1] = -torch.inf if n > 2 else 0.0
    R[3::13] = FAMILIES["ties 0/1e30"](len(R[3::13]), n)
    return R


@pytest.mark.parametrize("n", [2, 4, 5, 9])
def test_the_same_bits_in_every_batch(n, seed):
    """Batches of 1 to 70, wherever they begin: whole registers, remainders and those of one matrix."""
    R, G = logits(70, n), torch.randn(70, n, n)
    together = both(R, G)
    for size in range(1, 70):
        for offset in range(71 - size) if n == 4 else {0, 1, (70 - size) // 2, 70 - size}:
            part = slice(offset, offset + size)
            for alone, all_ in zip(both(R[part], G[part]), together):
                assert torch.equal(alone, all_[part]), (size, offset)
    for offset in range(70):
        for alone, all_ in zip(both(R[offset], G[offset]), together):
            assert torch.equal(alone, all_[offset]), offset


@pytest.mark.parametrize("n", [4, 7])
def test_the_same_bits_on_any_number_of_threads_and_again(n, seed):
    R, G = logits(20_011, n), torch.randn(20_011, n, n)  # enough to be shared out, and by nothing divisible
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = both(R, G)
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            for again, first in zip(both(R, G), single):
                assert torch.equal(again, first), threads
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def by_isa(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Logits, the gradient of T, and what every instruction set that runs here makes of them."""
    folder: Path = tmp_path_factory.mktemp("isa")
    torch.manual_seed(0)
    R = torch.cat([FAMILIES[name](64, 4) for name in ("N(0,1)", "Unif(-10,10)", "near identity", "near permutation")])
    R[10:20, 0, 0] = R[10:20, 0, -1] = -torch.inf
    G = torch.randn_like(R)
    torch.save((R, G), folder / "in.pt")
    results = {}
    for isa in ISAS:
        out = folder / f"{isa}.pt"
        command = [sys.executable, "-c", PROJECT, str(folder / "in.pt"), str(out)]
        done = subprocess.run(command, env={**os.environ, "STREAMMIX_ISA": isa}, capture_output=True, text=True)
        if done.returncode:
            assert "STREAMMIX_ISA" in done.stderr, done.stderr
            assert "not supported by this CPU" in done.stderr or "not in this build" in done.stderr, done.stderr
        else:
            results[isa] = torch.load(out)
    return R, G, results


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_agrees_with_the_formulas(isa, by_isa):
    R, G, results = by_isa
    if isa not in results:
        pytest.skip(f"{isa} does not run here")
    with sm.backend("eager"):
        T, grad = both(R, G)
    torch.testing.assert_close(results[isa][0], T, rtol=0, atol=1e-6)
    torch.testing.assert_close(results[isa][1], grad, rtol=0, atol=1e-6 * float(G.abs().max()))


def test_instruction_sets_agree(by_isa):
    _, G, results = by_isa
    assert "baseline" in results
    for T, grad in results.values():
        torch.testing.assert_close(T, results["baseline"][0], rtol=0, atol=1e-6)
        torch.testing.assert_close(grad, results["baseline"][1], rtol=0, atol=1e-6 * float(G.abs().max()))
