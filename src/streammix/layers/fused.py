"""Sites in a row with one pass over the state between two branches: a site's write waits for the next site's read.

Outputs are those of the sites called one by one, gradients to rounding. With `kept`, the backward pass finds only some
states kept, and rebuilds the others from the branch outputs by the writes alone; branches do not run again.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..functional import write
from .connections import Connection, HyperConnection, SinglePassConnection, State
from .connections.hyper import Opened
from .connections.single_pass import Streams

Versioned = tuple[Tensor, int]  # a tensor and the count of changes in place it had when it was saved


#: Numbers a token and channel that a branch of a Transformer keeps for its own backward pass, at least.
BRANCH_KEEPS = 8


def kept_states(streams: int, sites: int, recompute: int | Literal["auto"]) -> frozenset[int]:
    """Which states to keep, state k being the one that site k reads: every `recompute`-th, or by "auto" as few as leave
    the backward pass no higher a peak than its beginning.

    A run of m states between two kept ones is rebuilt at once, when the backward pass arrives at its end. By then c
    branches behind it have given back what they kept: with (m - 1) n <= 8 c the run needs no more than that.
    """
    if recompute != "auto":
        return frozenset(range(0, sites, recompute))
    kept, start = {0}, sites
    while start > 0:
        done = sites - start
        start = max(0, start - 1 - BRANCH_KEEPS * done // streams)
        kept.add(start)
    return frozenset(kept)


def run(
    sites: Sequence[Connection],
    state: State,
    args: tuple[Any, ...],
    keywords: Sequence[Mapping[str, Any]],
    *,
    kept: frozenset[int],
) -> tuple[State, list[tuple[Any, ...]]]:
    """The streams after all sites, each of which `fuses`, and what else their branches returned.

    keywords: each branch's own keyword arguments.
    kept: the states to keep, 0 among them; if empty, all.
    """
    if isinstance(sites[0], SinglePassConnection):
        return run_carried(cast("list[SinglePassConnection]", sites), cast("Streams", state), args, keywords)
    return run_plain(cast("list[HyperConnection]", sites), cast("Tensor", state), args, keywords, kept=kept)


def run_plain(
    sites: Sequence[HyperConnection],
    x: Tensor,
    args: tuple[Any, ...],
    keywords: Sequence[Mapping[str, Any]],
    *,
    kept: frozenset[int],
) -> tuple[Tensor, list[tuple[Any, ...]]]:
    """`run` where a site reads by its own weights."""
    states = KeptStates(x, kept) if kept and _may_drop(x) else None
    opened = sites[0].open(x)
    further = []
    for index, site in enumerate(sites):
        y, more = site.run_branch(opened.u, args, keywords[index])
        further.append(more)
        if states is not None:
            states.write(opened, y)
        if index + 1 == len(sites):
            break
        opened = sites[index + 1].open_after(opened, y, None if states is None else states.hooks(True))
        if states is not None:
            states.reached(index + 1, opened.x)
    with nullcontext() if states is None else states.hooks(False):
        out = write(opened.x, y, opened.post, opened.res)
    if states is not None:
        states.close()
    return out, further


def run_carried(
    sites: Sequence[SinglePassConnection], state: Streams, args: tuple[Any, ...], keywords: Sequence[Mapping[str, Any]]
) -> tuple[Streams, list[tuple[Any, ...]]]:
    """The same where a site reads with the weights of the one before it: the streams and the last site's weights."""
    site = sites[0]
    carrying = site.open_carried(state)
    further = []
    for index, site in enumerate(sites):
        y, more = site.run_branch(carrying.opened.u, args, keywords[index])
        further.append(more)
        if index + 1 < len(sites):
            carrying = sites[index + 1].open_after_carried(carrying, y)
    opened = carrying.opened
    return (write(opened.x, y, opened.post, opened.res), carrying.following), further


def _may_drop(x: Tensor) -> bool:
    """Whether there is a backward pass, and nothing stands between autograd and it."""
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return torch.is_grad_enabled() and x.numel() > 0 and not transformed


class Rebuilt:
    """A kept state and those after it, up to the next kept one: rebuilt where the backward pass asks for them.

    It lives as long as something that was saved may still ask.
    """

    def __init__(self, first: int, state: Tensor) -> None:
        self.first, self.state = first, state.detach()
        self.writes: list[list[Versioned]] = []  # number i takes state first + i to the next
        self.known: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        """State `index`.

        An operator asks for two states in a row, later ones first; so those further on are needed no more, and are
        dropped.
        """
        self.known = {at: state for at, state in self.known.items() if at <= index + 1}
        if index not in self.known:
            state = self.state
            with torch.no_grad():
                for at in range(self.first, index):
                    state = self.known[at + 1] = write(state, *map(unchanged, self.writes[at - self.first]))
        return self.known[index]


class KeptStates:
    """What the sites' operators save for their backward passes, less the states that can be rebuilt."""

    def __init__(self, x: Tensor, kept: frozenset[int]) -> None:
        self.kept = kept
        self.run: Rebuilt | None = Rebuilt(0, x)
        self.index, self.address, self.shape = 0, address(x), x.shape
        self.inputs: set[int] = set()

    def write(self, opened: Opened, y: Tensor) -> None:
        """Note how state `index + 1` comes from state `index`."""
        inputs = (y, opened.post, opened.res)
        assert self.run is not None
        self.run.writes.append([versioned(t) for t in inputs])
        self.inputs = set(map(address, inputs))

    def reached(self, index: int, x: Tensor) -> None:
        """Note that x is state `index`."""
        self.index, self.address = index, address(x)
        if index in self.kept:
            self.run = Rebuilt(index, x)

    def close(self) -> None:
        """Drop the last run, because the hooks live as long as what was saved, and the hooks hold this object."""
        self.run = None

    def hooks(self, makes_next: bool) -> AbstractContextManager[Any]:
        """For one call of an operator that saves the current state, and if `makes_next` the next one, its output."""

        def pack(tensor: Tensor) -> Versioned | tuple[Rebuilt, int]:
            assert self.run is not None
            index, at = self.index, address(tensor)
            if not at:  # an empty shard
                return versioned(tensor)
            if at != self.address:
                if not makes_next or tensor.shape != self.shape or at in self.inputs:
                    return versioned(tensor)
                index += 1
            return versioned(tensor) if index in self.kept else (self.run, index)

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def address(tensor: Tensor) -> int:
    """Where the tensor's numbers are; those on this device for a DTensor, which has none itself."""
    local: Tensor = getattr(tensor, "_local_tensor", tensor)
    return local.data_ptr()


def unpack(packed: Versioned | tuple[Rebuilt, int]) -> Tensor:
    first, second = packed
    return first[second] if isinstance(first, Rebuilt) else unchanged((first, second))


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
