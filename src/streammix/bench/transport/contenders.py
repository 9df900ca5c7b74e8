"""What `sm.transport` is measured against: (logits, rows, columns) -> plans, as people write or import them."""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from streammix import transport

ROUNDS = 20
OURS, POT = "transport", "POT"

Map = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain_sinkhorn(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """So many rounds of rows and columns from the softmax, where no row is all zeros; gradients by autograd."""
    K = logits.softmax(-1) + torch.finfo(logits.dtype).tiny
    for _ in range(ROUNDS):
        K = K * (rows / K.sum(-1)).unsqueeze(-1)
        K = K * (columns / K.sum(-2)).unsqueeze(-2)
    return K


def pot(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """POT's batched solver (Flamary et al. 2021) as it comes: Sinkhorn in the log domain, to a tolerance of 1e-5 or
    1,000 rounds; gradients by autograd through the last of them, which is its way to spare memory."""
    solve_batch: Callable[..., Any] = importlib.import_module("ot.batch").solve_batch
    found = solve_batch(-logits, 1.0, rows, columns, method="log_sinkhorn", grad="last_step")
    plan: Tensor = found.plan
    return plan


def contenders(*, compile: bool) -> dict[str, Map]:
    maps: dict[str, Map] = {OURS: transport, f"sinkhorn-{ROUNDS}": plain_sinkhorn}
    if compile:
        maps[f"sinkhorn-{ROUNDS} compiled"] = torch.compile(plain_sinkhorn, dynamic=False)
    if importlib.util.find_spec("ot") is not None:
        maps[POT] = pot
    return maps
