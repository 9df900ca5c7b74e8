"""Where the first number that is not finite comes from: which site, and what of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..functional import read
from ..layers.connections.base import Finish
from .watching import Use, after, watch

What = Literal["state", "pre", "post", "H_res", "read", "branch", "write"]
SAID: dict[What, str] = {
    "state": "the streams before the site",
    "pre": "the read weights",
    "post": "the write weights",
    "H_res": "H_res",
    "read": "what the branch reads",
    "branch": "the branch's output",
    "write": "the streams after the site",
}


@dataclass(frozen=True)
class NonFinite:
    """The first tensor with a NaN or an infinity, in the order in which a run computes them."""

    name: str
    """The site's name in the model, such as "blocks.0.attention"."""
    depth: int
    """The how manieth site of the run it is, from 0."""
    what: What
    """What is not finite; everything before it is: the streams before the site, its weights, the branch's input and
    output, the streams after it."""
    backward: bool
    """Whether it is the gradient of that, the forward pass being finite."""
    run: int
    """Which call of the model it was: 0, 1, ...; -1 for a site called before the first."""
    nans: int
    infinities: int
    numbers: int

    def __str__(self) -> str:
        of = "the gradient of " if self.backward else ""
        found = " and ".join(
            f"{count} {kind}" for count, kind in ((self.nans, "NaN"), (self.infinities, "inf")) if count
        )
        where = f"site {self.depth + 1} ({self.name})" if self.name else f"site {self.depth + 1}"
        return f"{of}{SAID[self.what]} at {where}: {found} of {self.numbers:,} numbers"


@dataclass
class Found:
    """What `first_non_finite` has found so far."""

    first: NonFinite | None = None


@contextmanager
def first_non_finite(model: nn.Module) -> Iterator[Found]:
    """Look for the first number that is not finite, at the sites of `model` while the block runs.

        with sm.diagnostics.first_non_finite(model) as found:
            loss(model(tokens)).backward()
        print(found.first)          # the branch's output at site 4 (stack.sites.3): 12 NaN of 4,096 numbers

    Both passes are looked at: at every site the streams before it, its weights, the branch's input and output, and the
    streams after it; then the gradients of branch and streams. It waits for the device at each, so it is for a step
    that is known to have gone wrong, and is done again; its numbers do not change. If nothing is found while the loss
    is not finite, that comes from what follows the last site; gradients of parameters are not looked at.

    Args:
        model: any module with sites, as `trace` takes it; connections of any wiring.

    Raises:
        TypeError: `model` is not a module.
    """
    found = Found()
    written: list[tuple[Tensor, Any]] = []  # the last streams written, and the hook on their gradient

    def check(use: Use, what: What, tensor: Tensor, *, backward: bool = False) -> None:
        if found.first is not None:
            return
        with torch.no_grad():
            finite = tensor.isfinite()
            if bool(finite.all()):
                return
            nans, odd = int(tensor.isnan().sum()), int((~finite).sum())
        found.first = NonFinite(use.name, use.depth, what, backward, use.run, nans, odd - nans, tensor.numel())

    def check_gradient(use: Use, what: What, tensor: Tensor) -> Any:
        if tensor.requires_grad:
            return tensor.register_hook(lambda gradient: check(use, what, gradient, backward=True))
        return None

    def look(use: Use, finish: Finish) -> Finish:
        if found.first is not None:
            return finish
        for tensor, hook in written:
            if tensor is use.state and hook is not None:
                hook.remove()  # the gradient of these streams is this site's doing, not that of the one that wrote them
        written.clear()
        check(use, "state", use.state)
        if found.first is None and (use.site is None or not use.site.unmapped):
            pre, post, res = use.coefficients()
            for what, tensor in (("pre", pre), ("post", post), ("H_res", res)):
                check(use, what, tensor)  # type: ignore[arg-type]
            with torch.no_grad():
                inputs = read(use.state, pre) if use.site is None else use.site.read(use.state, pre)
                for u in inputs if isinstance(inputs, tuple) else (inputs,):
                    check(use, "read", u)
        check_gradient(use, "state", use.state)

        def finished(y: Tensor) -> Any:
            check(use, "branch", y)
            check_gradient(use, "branch", y)
            out = finish(y)
            check(use, "write", after(out))
            written.append((after(out), check_gradient(use, "write", after(out))))
            return out

        return finished

    with watch(model, look):
        yield found
