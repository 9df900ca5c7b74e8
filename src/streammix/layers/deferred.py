"""Sites in a row with one pass over the state between two branches: a site's write waits for the next site's read.

Outputs are those of the sites called one by one, gradients to rounding. With `every`, the backward pass finds only each
`every`-th state kept, and rebuilds the others from the branch outputs by the writes alone; branches do not run again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import write
from .hyper_connection import HyperConnection, Opened

Versioned = tuple[Tensor, int]  # a tensor and the count of changes in place it had when it was saved


def can_defer(site: nn.Module) -> bool:
    """Whether nothing watches or wraps the site: no subclass, hook, compiled call, or replaced method."""
    watched = (
        site._forward_hooks or site._forward_pre_hooks or site._backward_hooks or site._backward_pre_hooks
    )  # FSDP's are among them
    replaced = site._compiled_call_impl is not None or {"forward", "connect"} & vars(site).keys()
    return type(site) is HyperConnection and not watched and not replaced


def optimal_interval(streams: int, sites: int) -> int:
    """Sites between kept states that cost least memory: sqrt(n L / (n + 2)) (mHC, arXiv 2512.24880, Sec. 4.3)."""
    return max(1, round(math.sqrt(streams * sites / (streams + 2))))


def run(
    sites: Sequence[HyperConnection],
    x: Tensor,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    every: int | None,
    checked: Callable[[int, Any], Tensor],
) -> Tensor:
    """The streams after all sites, which `can_defer`.

    checked(index, output): the branch's output as one tensor, or an error.
    """
    states = KeptStates(x, every) if every and _may_drop(x) else None
    opened = sites[0]._open(x)
    for index, site in enumerate(sites):
        if site.branch is None:
            raise TypeError(f"branches: number {index} is None; accepted: modules and functions")
        y = checked(index, site.branch(opened.u, *args, **kwargs))
        if states is not None:
            states.write(opened, y)
        if index + 1 == len(sites):
            with nullcontext() if states is None else states.hooks(False):
                return write(opened.x, y, opened.post, opened.res)
        opened = sites[index + 1]._open_after(opened, y, None if states is None else states.hooks(True))
        if states is not None:
            states.reached(index + 1, opened.x)
    raise AssertionError("unreachable: a Stack has sites")


def _may_drop(x: Tensor) -> bool:
    """Whether there is a backward pass, and nothing stands between autograd and it."""
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return torch.is_grad_enabled() and x.numel() > 0 and not transformed


class KeptStates:
    """What the sites' operators save for their backward passes, less the states that can be rebuilt.

    State k is the one that site k reads; those with k a multiple of `every` are kept.
    """

    def __init__(self, x: Tensor, every: int) -> None:
        self.every = every
        self.kept = {0: x.detach()}
        self.writes: list[list[Versioned]] = []
        self.rebuilt: dict[int, Tensor] = {}
        self.index, self.address, self.shape = 0, x.data_ptr(), x.shape
        self.inputs: set[int] = set()

    def write(self, opened: Opened, y: Tensor) -> None:
        """Note how state `index + 1` comes from state `index`."""
        inputs = (y, opened.post, opened.res)
        self.writes.append([versioned(t) for t in inputs])
        self.inputs = {t.data_ptr() for t in inputs}

    def reached(self, index: int, x: Tensor) -> None:
        """Note that x is state `index`."""
        self.index, self.address = index, x.data_ptr()
        if index % self.every == 0:
            self.kept[index] = x.detach()

    def hooks(self, makes_next: bool) -> AbstractContextManager[Any]:
        """For one call of an operator that saves the current state, and if `makes_next` the next one, its output."""

        def pack(tensor: Tensor) -> Versioned | int:
            index = self.index
            if tensor.data_ptr() != self.address:
                if not makes_next or tensor.shape != self.shape or tensor.data_ptr() in self.inputs:
                    return versioned(tensor)
                index += 1
            return versioned(tensor) if index % self.every == 0 else index

        return torch.autograd.graph.saved_tensors_hooks(pack, self.unpack)

    def unpack(self, packed: Versioned | int) -> Tensor:
        if not isinstance(packed, int):
            return unchanged(packed)
        self.rebuilt = {index: state for index, state in self.rebuilt.items() if index <= packed}
        if packed not in self.rebuilt:
            start = packed - packed % self.every
            state = self.kept[start]
            with torch.no_grad():
                for index in range(start, packed):
                    state = self.rebuilt[index + 1] = write(state, *map(unchanged, self.writes[index]))
        return self.rebuilt[packed]


def versioned(tensor: Tensor) -> Versioned:
    """Detached: an output that held its own graph would keep it alive for ever. Autograd attaches it again."""
    return tensor.detach(), tensor._version


def unchanged(saved: Versioned) -> Tensor:
    """The tensor; autograd's own check of it does not reach behind hooks."""
    tensor, version = saved
    if tensor._version != version:
        raise RuntimeError(
            "a tensor that the backward pass of a Stack needs was changed in place: a branch's output, say; clone it"
        )
    return tensor
