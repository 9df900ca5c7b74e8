"""Activation memory of a training step of the lab's GPT."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from streammix import Stack
from streammix.bench.memory import allocations
from streammix.lab.config import RESIDUAL
from streammix.lab.model import GPT

from .models import OURS, gpt, text

KINDS = ("saved", "held", "peak")
RECOMPUTED = ", recompute"  # recompute="auto"; see `streammix.Stack`


def memory(
    *,
    n: int = 4,
    dims: Sequence[int] = (512, 1024),
    layers: int = 6,
    batch: int = 8,
    context: int = 256,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Bytes beyond the parameters and their gradients, float32: one row a width and model.

    "saved": what autograd keeps for the backward pass, every storage once; None with recomputation, whose states pass
    by the hooks that count. "held": tensors that live after the forward pass. "peak": the most that live at a time
    during forward and backward pass. "saved_states" and so on: what is added to the plain model's, a site, in stream
    states (tokens x n x C numbers).
    """
    rows: list[dict[str, Any]] = []
    tokens, targets = text(batch, context)
    for dim in dims:
        state = tokens.numel() * n * dim * 4
        plain: dict[str, Any] = {}
        for recipe, recompute in ((RESIDUAL, False), (OURS, False), (OURS, True)):
            name = recipe + RECOMPUTED * recompute
            progress(f"dim {dim}, {name}")
            model = gpt(recipe, dim, n, layers, batch, context)
            if isinstance(model.stack, Stack):
                model.stack.recompute = "auto" if recompute else None
            row: dict[str, Any] = {"dim": dim, "n": n, "layers": layers, "tokens": tokens.numel(), "model": name}
            row |= {"saved": None if recompute else saved(model, tokens, targets), "state": state}
            row |= {"held": held(model, tokens, targets), "peak": most(model, tokens, targets)}
            plain = plain or row
            for kind in KINDS:
                known = row[kind] is not None
                row[f"{kind}_states"] = (row[kind] - plain[kind]) / (state * len(model.stack.sites)) if known else None
            rows.append(row)
    return rows


def saved(model: GPT, tokens: Tensor, targets: Tensor) -> int:
    """Bytes of the storages kept for the backward pass of the loss, parameters left out; leaves gradients behind."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no two share an address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.loss(tokens, targets)
    loss.backward()
    return sum(storage.nbytes() for storage in kept.values())


def held(model: GPT, tokens: Tensor, targets: Tensor) -> int:
    """Bytes that a forward pass leaves allocated while its loss lives."""
    return allocations(lambda: model.loss(tokens, targets))[1]


def most(model: GPT, tokens: Tensor, targets: Tensor) -> int:
    """Bytes allocated at most at a time during a step whose gradients have their memory already."""
    model.loss(tokens, targets).backward()
    model.zero_grad(set_to_none=False)
    return allocations(lambda: model.loss(tokens, targets).backward())[0]
