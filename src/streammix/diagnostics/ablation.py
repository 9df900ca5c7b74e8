"""What a model's output owes to single streams: delete them at one site, and restore them at a later one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .._checks import check_called, check_floating, is_integer
from ..functional import read
from ..layers import Connection, borrowed
from ..layers.borrowed import SiteFormula
from ..layers.connections.base import Finish
from ..layers.connections.hyper import Opened
from .watching import Use, after, connections, watch

#: From the depth of a site and the streams after it to the streams that shall be there.
Change = Callable[[int, Tensor], Tensor]


@dataclass
class Routing:
    """A site's weights in the run that is held fast, and the streams after it."""

    name: str
    pre: Tensor
    post: Tensor
    res: Tensor
    carried: tuple[Tensor, ...] = ()
    """What the site hands to the next one beside the streams, such as the read weights of a single-pass site."""
    state: Tensor | None = None


class Ablation:
    """Deletes streams after a site, with all read, write and mixing weights frozen, and compares outputs.

        ablation = sm.diagnostics.Ablation(model, lambda: model(tokens))         # logits (..., V)
        ablation.kl(site=3, streams=[0]).mean()                                 # what stream 0 carries past site 3
        ablation.kl(site=3, streams=[0], restored=[0], at=6).mean()             # less what comes back with it at site 6

    The model is run once as it is; its weights pre, post and H_res at every site, and the streams after it, are kept.
    Then streams are set to zero after one site, every site computing with the kept weights, so that what changes is
    the streams' content and not the routing; and in the same run streams may be set back to what they were after a
    later site. Branches run as always. The idea is arXiv 2603.14833's; how it deletes, it leaves open.

    Args:
        model: with sites, as `trace` takes it; in the mode, and with the randomness, in which `run` always computes the
            same. Connections of fractions, segments, gates and sparse updates are refused, as by `trace`.
        run: calls the model and returns logits (..., V).

    Attributes:
        sites: the sites' names by depth.
        clean: the logits of the model as it is.

    Raises:
        TypeError: `model` is not a module, or `run` returned no floating tensor.
        ValueError: a connection in it cannot be frozen, or `run` passed no site.
    """

    def __init__(self, model: nn.Module, run: Callable[[], Float[Tensor, "*tokens V"]]) -> None:
        self.model, self.run = model, run
        self.routing: list[Routing] = []
        with torch.no_grad(), watch(model, self.note):
            self.clean = run()
        check_floating("run()", self.clean)
        if not self.routing:
            raise ValueError(f"run: passed no site of this {type(model).__name__}; accepted: one that calls its sites")
        self.sites = [one.name for one in self.routing]

    def note(self, use: Use, finish: Finish) -> Finish:
        site = use.site
        if site is not None and site.unmapped:
            raise ValueError(f"model: {use.name or 'the site'} cannot be frozen: {site.unmapped}")
        pre, post, res = use.coefficients()
        routing = Routing(use.name, pre, post, res)
        self.routing.append(routing)

        def finished(y: Tensor) -> Any:
            out = finish(y)
            routing.state = after(out).clone()
            routing.carried = out[1:] if isinstance(out, tuple) else ()
            return out

        return finished

    @torch.no_grad()
    def kl(
        self, site: int | str, streams: Sequence[int], *, restored: Sequence[int] = (), at: int | str | None = None
    ) -> Float[Tensor, " *tokens"]:
        """KL(model as it is ‖ model without `streams` after `site`) of the outputs' distributions, in nats.

        Args:
            site: its depth, from 0, or its name.
            streams: which to set to zero; none: what freezing alone changes, which is rounding.
            restored: which to set back to what they were, `at` a later site.

        Raises:
            ValueError: no such site or stream, `at` that is no later than `site`, or a run that passes other sites.
        """
        first = self.depth("site", site)
        gone = self.checked("streams", streams, first)
        later = None if at is None else self.depth("at", at)
        if (later is None) != (not restored):
            raise ValueError(f"restored: got {list(restored)} with at={at!r}; accepted: both or none")
        if later is not None and later <= first:
            raise ValueError(f"at: got {at!r}; accepted: a site after {site!r}")
        back = [] if later is None else self.checked("restored", restored, later)

        def change(depth: int, state: Tensor) -> Tensor:
            if depth == first and gone:
                state = state.index_fill(-2, torch.tensor(gone, device=state.device), 0)
            if depth == later:
                kept = self.routing[depth].state
                assert kept is not None  # every site of the clean run was finished
                state = state.clone()
                state[..., back, :] = kept[..., back, :]
            return state

        with frozen(self.model, self.routing, change):
            altered = self.run()
        return divergence(self.clean, altered)

    def each(self) -> Float[Tensor, "sites n"]:
        """Mean KL over tokens of deleting each stream by itself after each site: one run of the model each."""
        counts = [range(one.post.shape[-1]) for one in self.routing]
        rows = [[self.kl(depth, [s]).mean() for s in streams] for depth, streams in enumerate(counts)]
        return torch.stack([torch.stack(row) for row in rows])

    def depth(self, what: str, site: int | str) -> int:
        if isinstance(site, str):
            check_called(what, site, self.sites)
            if self.sites.count(site) > 1:
                raise ValueError(f"{what}: got {site!r}, which the run passes more than once; accepted: a depth")
            return self.sites.index(site)
        if not is_integer(site, 0, len(self.sites) - 1):
            raise ValueError(f"{what}: got {site!r}; accepted: integers from 0 to {len(self.sites) - 1}")
        return site

    def checked(self, what: str, streams: Sequence[int], depth: int) -> list[int]:
        most = self.routing[depth].post.shape[-1] - 1
        if not all(is_integer(stream, 0, most) for stream in streams):
            raise ValueError(f"{what}: got {list(streams)}; accepted: integers from 0 to {most}")
        return list(streams)


def divergence(clean: Float[Tensor, "*tokens V"], altered: Float[Tensor, "*tokens V"]) -> Float[Tensor, " *tokens"]:
    """KL = Σ p (log p - log q), in float32 at least."""
    dtype = torch.promote_types(clean.dtype, torch.float32)
    p, q = (logits.to(dtype).log_softmax(-1) for logits in (clean, altered))
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)


@contextmanager
def frozen(model: nn.Module, routing: Sequence[Routing], change: Change) -> Iterator[None]:
    """Every site computes with the weights in `routing`, by depth, and `change` has the last word on its streams."""
    depth = -1

    def following() -> Routing:
        nonlocal depth
        depth += 1
        if depth >= len(routing):
            raise ValueError(
                f"run: passed more than the {len(routing)} sites of the first run; accepted: the same ones"
            )
        return routing[depth]

    def joined(site: Connection) -> Callable[..., tuple[Any, Finish]]:
        def join(x: Tensor, *carried: Tensor) -> tuple[Any, Finish]:
            one = following()

            def finish(y: Tensor) -> Any:
                state = site.write(x, y, one.post, one.res)
                return (state, *one.carried) if one.carried else state

            return site.read(x, one.pre), finish

        return join

    def held(formula: SiteFormula, weight: Tensor, bias: Tensor, gate: Tensor, opened: Opened) -> Opened:
        one = following()
        return Opened(opened.x, read(opened.x, one.pre), one.post, one.res)

    def changing(use: Use, finish: Finish) -> Finish:
        place = depth

        def finished(y: Tensor) -> Any:
            out = finish(y)
            state = change(place, after(out))
            return (state, *out[1:]) if isinstance(out, tuple) else state

        return finished

    with ExitStack() as undo:
        borrowed.OBSERVERS.append(held)  # before what watches, which then sees the site with the weights held fast
        undo.callback(borrowed.OBSERVERS.remove, held)
        undo.enter_context(watch(model, changing))
        for site in connections(model).values():
            site.__dict__["join"] = joined(site)
            undo.callback(site.__dict__.pop, "join")
        yield
        if depth + 1 != len(routing):
            raise ValueError(f"run: passed {depth + 1} sites, {len(routing)} the first time; accepted: the same ones")
