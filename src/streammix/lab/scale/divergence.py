"""Where a step that went wrong went wrong first."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from streammix.lab.scale.layouts import Layout
from streammix.lab.text import Windows

NOWHERE = 10**9


def blame(layout: Layout, batch: Windows, loss: float) -> str:
    """The first site, in the order of the network, whose output is not finite; with a finite loss the last parameter
    whose gradient is not. Runs the batch once more; every process takes part and gets the same answer."""
    if math.isfinite(loss):
        own = [name for name, p in layout.module.named_parameters() if p.grad is not None and not finite(p.grad)]
        found = [name for some in layout.team.agree(lambda: own) for name in some]
        return f"first in the gradient of {max(found, key=depth)}" if found else ""
    seen: list[int] = []
    with watched(layout.module, seen):
        layout.measure(batch)
    first = min(layout.team.agree(lambda: min(seen, default=NOWHERE)))
    return f"first after site {first + 1} (stack.sites.{first})" if first < NOWHERE else "first after the last site"


def depth(name: str) -> int:
    """The site of the parameter of this name; the embedding comes before all, norm and head after them."""
    parts = name.split(".")
    return int(parts[2]) if name.startswith("stack.sites.") else -1 if parts[0] == "embed" else NOWHERE


@contextlib.contextmanager
def watched(module: nn.Module, seen: list[int]) -> Iterator[None]:
    """Note the number of every site that returns something not finite."""

    def watch(number: int) -> Any:
        def look(site: nn.Module, inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if not all(finite(t) for t in tensors if isinstance(t, Tensor)):
                seen.append(number)

        return look

    sites: nn.Module = module.stack.sites  # type: ignore[assignment, union-attr]
    handles = [site.register_forward_hook(watch(int(number))) for number, site in sites.named_children()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def finite(tensor: Tensor) -> bool:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return bool(torch.isfinite(local).all())
