"""Every use of every site in a model, told to an observer while the model runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Connection, borrowed
from ..layers.borrowed import Observed, SiteFormula
from ..layers.connections.base import Finish
from ..layers.connections.hyper import Opened

Coefficients = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Use:
    """One use of a site, between its read and its write."""

    name: str
    """The site's name in the model, such as "blocks.0.attention"; of a site on borrowed parameters, its weight's."""
    run: int
    """Which call of the watched model this belongs to: 0, 1, ...; -1 before the first."""
    depth: int
    """The how manieth use of a site in this run it is, from 0."""
    site: Connection | None
    """The connection; None for a site on borrowed parameters."""
    state: Tensor
    """The state before the site."""
    coefficients: Callable[[], Coefficients]
    """pre, post and H_res, worked out a second time, without gradient. pre are the weights the site reads with."""


#: From a use and what finishes it (branch output -> state after the site) to what shall finish it.
Watcher = Callable[[Use, Finish], Finish]


@contextmanager
def watch(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Call `watcher` at every use of a site of `model` while the block runs.

    Sites are the connections in the model, and what `streammix.connect` and `streammix.hf.accelerate` compute with its
    parameters or while it runs. Calls that activation checkpointing repeats in the backward pass are passed over.
    Inside the block compiled code runs eagerly. On leaving, also by an exception, the model is as it was.

    Args:
        model: any module.
        watcher: given a use of a site, and the function that takes the branch's output to the state after it (or to a
            tuple with that state first), it returns that function or another in its place.

    Raises:
        TypeError: `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; accepted: a torch.nn.Module")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    run, depth, running = -1, -1, 0

    def begin_run(*_: Any) -> None:
        nonlocal run, depth, running
        if not in_backward():
            run, depth, running = run + 1, -1, running + 1

    def end_run(*_: Any) -> None:
        nonlocal running
        if not in_backward():
            running -= 1

    def tell(
        name: str, site: Connection | None, state: Tensor, again: Callable[[], Coefficients], finish: Finish
    ) -> Finish:
        nonlocal depth
        depth += 1
        return watcher(Use(name, run, depth, site, state, again), finish)

    def observer(name: str) -> Callable[[Connection, Tensor, tuple[Tensor, ...], Finish], Finish]:
        def observe(site: Connection, state: Tensor, carried: tuple[Tensor, ...], finish: Finish) -> Finish:
            if in_backward():
                return finish

            @torch.no_grad()
            def again() -> Coefficients:
                pre, post, res = site.maps(state, *carried)
                return pre.detach(), post, res

            return tell(name, site, state, again, finish)

        return observe

    def observe_borrowed(formula: SiteFormula, weight: Tensor, bias: Tensor, gate: Tensor, opened: Opened) -> Opened:
        name = names.get(id(weight))
        if in_backward() or (name is None and not running):
            return opened

        @torch.no_grad()
        def again() -> Coefficients:
            return formula.coefficients(opened.x, weight, bias, gate)

        return Observed.by(tell(name or "connect", None, opened.x, again, opened.finish), opened)

    with ExitStack() as undo:
        # Without this module nothing can have been compiled, and importing it takes seconds.
        if "torch._dynamo" in sys.modules:
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        undo.callback(model.register_forward_pre_hook(begin_run, prepend=True).remove)
        undo.callback(model.register_forward_hook(end_run, always_call=True).remove)
        for name, site in connections(model).items():
            observe = observer(name)
            site.observers.append(observe)
            undo.callback(site.observers.remove, observe)
        borrowed.OBSERVERS.append(observe_borrowed)
        undo.callback(borrowed.OBSERVERS.remove, observe_borrowed)
        yield


def connections(model: nn.Module) -> dict[str, Connection]:
    """The model's connections by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Connection)}


def after(output: Any) -> Tensor:
    """The streams in what finished a site: a state, or a tuple that begins with one."""
    return output[0] if isinstance(output, tuple) else output


def in_backward() -> bool:
    """Whether this thread runs a backward pass, as it does when it recomputes a checkpointed forward."""
    return torch._C._current_graph_task_id() != -1
