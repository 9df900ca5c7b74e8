"""How the process grows while a stack trains on a CPU, by recipe: its tensors do not, the allocator's heap may.

    python benchmarks/heap.py mhc mhc-sinkhorn deepseek-v4
    MALLOC_TOP_PAD_=67108864 python benchmarks/heap.py deepseek-v4      with room kept at the heap's end (glibc)

8 sites, dim 128, n = 4, 1,024 tokens, one thread. Megabytes since the second step, after each 40 steps. Linux only.
"""

import resource
import sys
from pathlib import Path

import torch

import streammix as sm

SITES, DIM, STEPS, REPEATS = 8, 128, 40, 3


def resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or ["mhc", "mhc-sinkhorn", "deepseek-v4"]:
        stack = sm.Stack([torch.nn.Linear(DIM, DIM) for _ in range(SITES)], DIM, recipe=name)
        x = torch.randn(4, 256, DIM)
        grown: list[float] = []
        for step in range(2 + STEPS * REPEATS):
            if step == 2:
                before = resident()
            stack(x).square().sum().backward()
            stack.zero_grad()
            if step > 2 and (step - 1) % STEPS == 0:
                grown.append(resident() - before)
        print(f"{name:16}", "  ".join(f"{megabytes:6.1f} MB" for megabytes in grown))


if __name__ == "__main__":
    main(sys.argv[1:])
