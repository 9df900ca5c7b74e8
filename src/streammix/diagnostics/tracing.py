"""Watching what a model's hyper-connections do while it runs, from outside and without changing it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..layers import HyperConnection
from ..layers.connections.base import Finish
from .watching import Use, after, connections, watch


@dataclass
class Visit:
    """One call of one site. Tensors are detached, on the model's device, coefficients in float32 at least."""

    name: str
    """The site's name in the model, such as "blocks.0.attention"."""
    run: int
    """Which call of the traced model this belongs to: 0, 1, ...; -1 for a site called before the first."""
    pre: Float[Tensor, "*batch n"]
    post: Float[Tensor, "*batch n"]
    res: Float[Tensor, "*batch n n"]
    state: Float[Tensor, "*batch n C"] | None = None
    """The state after the site, where the trace keeps states."""
    reads: Float[Tensor, "*batch k n"] | None = None
    """The weights of each input, where the branch has several of its own; `pre` is their mean then."""
    logits: Float[Tensor, "*batch n n"] | None = None
    """Those of H_res, where the trace keeps logits and they are n x n."""


@dataclass
class Site:
    """All visits at one depth of the model, tokens of all runs and batches in one row."""

    name: str
    pre: Float[Tensor, "tokens n"]
    post: Float[Tensor, "tokens n"]
    res: Float[Tensor, "tokens n n"]
    state: Float[Tensor, "tokens n C"] | None = None
    reads: Float[Tensor, "tokens k n"] | None = None
    logits: Float[Tensor, "tokens n n"] | None = None


@dataclass
class Trace:
    """What `trace` has recorded so far; grows with every call of the model."""

    visits: list[Visit] = field(default_factory=list)
    """In the order of the calls."""

    def sites(self) -> list[Site]:
        """The visits by depth, first site first; a module called twice in a run is two sites.

        Raises:
            ValueError: nothing was recorded, or two runs passed different sites.
        """
        runs: dict[int, list[Visit]] = {}
        for visit in self.visits:
            runs.setdefault(visit.run, []).append(visit)
        if not runs:
            raise ValueError("trace: got no calls; call the model inside the `with trace(model)` block")
        paths = [[visit.name for visit in visits] for visits in runs.values()]
        for run, path in zip(runs, paths):
            if path != paths[0]:
                raise ValueError(f"trace: run {run} passed {path}, the first {paths[0]}; trace them apart")
        return [merge(visits) for visits in zip(*runs.values())]

    @property
    def res(self) -> list[Float[Tensor, "tokens n n"]]:
        """The mixing matrices H_1 ... H_L by depth, as `gains_by_depth` takes them."""
        return [site.res for site in self.sites()]


def merge(visits: Sequence[Visit]) -> Site:
    """The visits of one site in several runs as one."""
    states = [visit.state for visit in visits if visit.state is not None]
    reads = [visit.reads for visit in visits if visit.reads is not None]
    logits = [visit.logits for visit in visits if visit.logits is not None]
    return Site(
        name=visits[0].name,
        pre=tokens([visit.pre for visit in visits], 1),
        post=tokens([visit.post for visit in visits], 1),
        res=tokens([visit.res for visit in visits], 2),
        state=tokens(states, 2) if states else None,
        reads=tokens(reads, 2) if reads else None,
        logits=tokens(logits, 2) if logits else None,
    )


def tokens(parts: Sequence[Tensor], ndim: int) -> Tensor:
    """The parts one after the other, all dimensions before the last `ndim` made one."""
    return torch.cat([part.reshape(-1, *part.shape[part.ndim - ndim :]) for part in parts])


@contextmanager
def trace(model: nn.Module, *, states: bool = False, logits: bool = False) -> Iterator[Trace]:
    """Record the coefficients of every site in `model` while the block runs.

    Sites are connections, and what `streammix.connect` and `streammix.hf.accelerate` compute with the model's
    parameters. With single-pass wiring, what is recorded as `pre` is what a site reads with; with several reads `pre`
    is their mean, and `reads` has all. Heads are recorded like tokens, each with weights, a matrix and a state
    (n, C / h) of its own. Connections of fractions, segments, gates and sparse updates, and those that keep outputs
    instead of streams, are passed over, because they have no n weights to read with, or no H_res of all streams.

        with sm.diagnostics.trace(model) as trace:
            model(tokens)
        gains = sm.diagnostics.gains_by_depth(trace.res)

    The model computes what it always computes; the coefficients are worked out a second time, without
    gradient, from each site's input. Calls that activation checkpointing repeats in the backward pass are not
    counted again. Inside the block compiled code runs eagerly, which the recording needs. On leaving, also by
    an exception, the model is as it was.

    Args:
        model: any module that holds sites, or one of them.
        states: keep the state after each site too, (..., n, C) a call, which takes much more memory.
        logits: keep the logits of H_res too, where they are n x n, which takes a third computation of them.

    Raises:
        TypeError: `model` is not a module.
        ValueError: it holds no connection that can be recorded; the message says why of those that it holds. On leaving
            the block: it has no connections, and passed no other site either.
    """
    sites = connections(model) if isinstance(model, nn.Module) else {}
    if sites and all(site.unmapped for site in sites.values()):
        raise none_recorded(model, "; ".join(sorted({site.unmapped for site in sites.values()})))
    record = Trace()

    def note(use: Use, finish: Finish) -> Finish:
        if use.site is not None and use.site.unmapped:
            return finish
        pre, post, res = use.coefficients()
        several = pre.ndim > post.ndim
        visit = Visit(use.name, use.run, pre.mean(-2) if several else pre, post, res)
        visit.reads = pre if several else None
        visit.logits = mix_logits(use) if logits else None
        record.visits.append(visit)
        return finish_and_keep(visit, finish) if states else finish

    with watch(model, note):
        yield record
    if not sites and not record.visits:
        raise none_recorded(model, "")


def none_recorded(model: nn.Module, why: str) -> ValueError:
    return ValueError(
        f"model: got a {type(model).__name__} {f'of which {why}' if why else 'without any connection'}; accepted:"
        " one with HyperConnections, or with sites of streammix.connect"
    )


@torch.no_grad()
def mix_logits(use: Use) -> Tensor | None:
    """The logits of H_res as n x n matrices; None where they are no such matrices."""
    site = use.site
    if not isinstance(site, HyperConnection):
        return None
    mix: Tensor = site.logits(use.state)[2]
    n = site.streams
    return mix.unflatten(-1, (n, n)) if mix.shape[-1] == n * n else None


def finish_and_keep(visit: Visit, finish: Finish) -> Finish:
    def finished(y: Tensor) -> Any:
        out = finish(y)
        visit.state = after(out).detach().clone()  # a later in-place operation must not change the record
        return out

    return finished
