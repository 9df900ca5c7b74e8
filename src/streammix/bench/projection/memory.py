"""Peak memory of a forward and backward pass of the projection."""

from typing import Any

import torch

from streammix import birkhoff
from streammix.bench.memory import available, growth

from .contenders import plain_sinkhorn


def memory(*, n: int = 4, batch: int = 1 << 20) -> list[dict[str, Any]]:
    """Bytes a pass needs at its peak, in all and beyond its four tensors: logits, matrices and the gradient of each.

    Empty where the operating system does not tell (anything but Linux).
    """
    if not available():
        return []
    rows = []
    for name, project in {"birkhoff": birkhoff, "sinkhorn-20 eager": plain_sinkhorn}.items():
        torch.manual_seed(0)
        warm_up = torch.randn(64, n, n, requires_grad=True)
        torch.autograd.grad(project(warm_up), warm_up, torch.ones(64, n, n))  # loads what torch loads once
        logits = torch.randn(batch, n, n, requires_grad=True)
        G = torch.ones(batch, n, n)
        grown = growth(lambda: torch.autograd.grad(project(logits), logits, G))  # noqa: B023, F821
        tensor = logits.nbytes
        row = {"contender": name, "batch": batch, "n": n, "peak": grown + 2 * tensor, "beyond": grown - 2 * tensor}
        rows.append(row)
        del logits, G
    return rows
