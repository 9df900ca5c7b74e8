"""How kernels are launched on batches of matrices: what the operators call, with the operators' own arguments.

Nothing here waits for the device, and nothing is compiled anew for another number of tokens.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from ..eager import birkhoff as eager_birkhoff
from ..eager import sinkhorn as eager_sinkhorn
from ..sinkhorn_rules import RECIPES
from . import birkhoff as thread
from . import birkhoff_tile as tile
from . import sinkhorn as sinkhorn_kernels

THREAD = 6  # matrices of so many rows at most are a thread's
THREAD_SINKHORN_BACKWARD = 4  # it holds four matrices at a time
LARGEST_N = 16
SPAN = 32  # blocks whose flags one program of the second launch reads

#: Triton's interpreter stands in for the device, in tests: each call is slow, so a program takes many matrices.
INTERPRETED = bool(triton.knobs.runtime.interpret)
HIP = torch.version.hip is not None
FAST = not (HIP or INTERPRETED)  # reciprocals by one instruction
BLOCK = 64 if HIP else 32  # one warp
#: Said because Triton 3.9 warns where it is not, and 3.10 does without: kernels are counted with it.
FUSED = {"enable_fp_fusion": True}
REGISTERS = {} if HIP or INTERPRETED else {"maxnreg": 48}


def generation(tensor: Tensor) -> int:
    """The major number of an NVIDIA device's compute capability; 0 elsewhere."""
    return 0 if HIP or not tensor.is_cuda else torch.cuda.get_device_capability(tensor.device)[0]


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Kernels are launched on the current device, which must be the tensor's."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()


def block_for(count: int) -> int:
    return min(4096, triton.next_power_of_2(count)) if INTERPRETED else BLOCK


def tile_for(n: int, count: int) -> int:
    """How many matrices of n rows a program takes as tiles."""
    if INTERPRETED:
        return min(64, triton.next_power_of_2(count))
    return 8 if n <= 4 else 2 if n <= 8 else 1


def float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).contiguous()


def birkhoff(logits: Tensor, tol: float | None = None) -> Tensor:
    n = logits.shape[-1]
    if n == 1:
        return eager_birkhoff.birkhoff(logits, tol)
    R = float32(logits)
    T = torch.empty_like(R)
    count, small = R.numel() // (n * n), eager_birkhoff.last_step(tol, n, torch.float32)
    if count:
        with on_device_of(R):
            if n <= THREAD:
                block = block_for(count)
                blocks = triton.cdiv(count, block)
                hard = torch.empty(blocks, dtype=torch.int8, device=R.device)
                registers = REGISTERS if n <= 4 else {}
                fixed: dict[str, Any] = {"n": n, "BLOCK": block, "FAST": FAST, "num_warps": 1, **FUSED, **registers}
                thread.forward_kernel[(blocks,)](R, T, hard, count, thread_step(small), **fixed)
                if n > 2:
                    finish_birkhoff(R, T, hard, n, count, small, block)
            else:
                B = tile_for(n, count)
                shape: dict[str, Any] = {"n": n, "P": triton.next_power_of_2(n), "B": B, "num_warps": 1, **FUSED}
                tile.forward_kernel[(triton.cdiv(count, B),)](R, T, count, small, **shape)
    return T.view(logits.shape).to(logits.dtype)


def finish_birkhoff(R: Tensor, T: Tensor, hard: Tensor, n: int, count: int, small: float, block: int) -> None:
    """What the kernel for threads left over, in the blocks that say so."""
    blocks = triton.cdiv(count, block)
    shape = _left(n, block)
    tile.forward_left_kernel[(triton.cdiv(blocks, SPAN),)](R, T, hard, count, blocks, small, **shape)


def thread_step(small: float) -> float:
    """The last step of the kernel for threads, which measures steps from their end, not from their middle."""
    return 2 * small


def _left(n: int, block: int) -> dict[str, Any]:
    B = min(64, block) if INTERPRETED else min(8 if n <= 4 else 4, block)
    return {"n": n, "P": triton.next_power_of_2(n), "B": B, "BLOCK": block, "SPAN": SPAN, "num_warps": 1, **FUSED}


def birkhoff_backward(grad: Tensor, matrix: Tensor) -> Tensor:
    n = matrix.shape[-1]
    if n == 1:
        return eager_birkhoff.birkhoff_backward(grad, matrix)
    G, T = float32(grad), float32(matrix)
    D = torch.empty_like(T)
    count = T.numel() // (n * n)
    if count:
        with on_device_of(T):
            if n <= THREAD:
                block = block_for(count)
                blocks = triton.cdiv(count, block)
                hard = torch.empty(blocks, dtype=torch.int8, device=T.device)
                fixed: dict[str, Any] = {"n": n, "BLOCK": block, "FAST": FAST, "num_warps": 1, **FUSED}
                thread.backward_kernel[(blocks,)](G, T, D, hard, count, **fixed)
                if n > 4:
                    shape = _left(n, block)
                    tile.backward_left_kernel[(triton.cdiv(blocks, SPAN),)](G, T, D, hard, count, blocks, **shape)
            else:
                B = tile_for(n, count)
                shape = {"n": n, "P": triton.next_power_of_2(n), "B": B, "num_warps": 1, **FUSED}
                tile.backward_kernel[(triton.cdiv(count, B),)](G, T, D, count, **shape)
    return D.view(matrix.shape).to(matrix.dtype)


def sinkhorn(logits: Tensor, rounds: int, start: int, columns_last: bool, eps: float) -> Tensor:
    n = logits.shape[-1]
    if n == 1:
        return eager_sinkhorn.sinkhorn(logits, rounds, start, columns_last, eps)
    R = float32(logits)
    M = torch.empty_like(R)
    count = R.numel() // (n * n)
    if count:
        rule: dict[str, Any] = {"START": start, "ROWS": columns_last, "n": n, "num_warps": 1, **FUSED}
        with on_device_of(R):
            if n <= THREAD:
                block = block_for(count)
                grid = (triton.cdiv(count, block),)
                sinkhorn_kernels.forward_kernel[grid](R, M, count, rounds, eps, BLOCK=block, FAST=FAST, **rule)
            else:
                B = tile_for(n, count)
                rule |= {"P": triton.next_power_of_2(n), "B": B}
                sinkhorn_kernels.forward_tile_kernel[(triton.cdiv(count, B),)](R, M, count, rounds, eps, **rule)
    return M.view(logits.shape).to(logits.dtype)


def sinkhorn_backward(grad: Tensor, logits: Tensor, rounds: int, start: int, columns_last: bool, eps: float) -> Tensor:
    n = logits.shape[-1]
    if n == 1:
        return eager_sinkhorn.sinkhorn_backward(grad, logits, rounds, start, columns_last, eps)
    G, R = float32(grad), float32(logits)
    D = torch.empty_like(R)
    count = R.numel() // (n * n)
    if count:
        rule: dict[str, Any] = {"START": start, "ROWS": columns_last, "n": n, "num_warps": 1, **FUSED}
        numbers = (count, rounds, run_of(rounds), eps)
        with on_device_of(R):
            if n <= THREAD_SINKHORN_BACKWARD:
                block = block_for(count)
                grid = (triton.cdiv(count, block),)
                sinkhorn_kernels.backward_kernel[grid](G, R, D, *numbers, BLOCK=block, FAST=FAST, **rule)
            else:
                B = tile_for(n, count)
                rule |= {"P": triton.next_power_of_2(n), "B": B}
                sinkhorn_kernels.backward_tile_kernel[(triton.cdiv(count, B),)](G, R, D, *numbers, **rule)
    return D.view(logits.shape).to(logits.dtype)


def run_of(rounds: int) -> int:
    """Rounds between two that a gradient makes again from the logits."""
    return max(1, round(rounds**0.5))


def implicit_sinkhorn(logits: Tensor, rounds: int) -> Tensor:
    return sinkhorn(logits, rounds, *RECIPES["transformer-engine"].numbers)
