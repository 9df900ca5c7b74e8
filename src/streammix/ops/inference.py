"""Operator `next_site`: all that lies between two branches, where no derivative is wanted.

For one token an operator's call costs as much as its work: this is the write of a site, the coefficients and read of
the next and the projection of its mixing matrix in one call, and it leaves out what only a backward pass needs.
"""

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from .eager import birkhoff, site
from .registry import define
from .site import PARAMETERS, SETTINGS


def _kernel(x: Tensor, y: Tensor, post: Tensor, res: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *of_site, tol = arguments
    state, u, post, mix, *_ = site.write_site_read(x, y, post, res, *of_site)
    return state, u, post, birkhoff.birkhoff(mix.reshape(res.shape), tol)


def _fake(x: Tensor, y: Tensor, post: Tensor, res: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape), post.new_empty(post.shape), res.new_empty(res.shape)


def _backward(ops: SimpleNamespace, ctx: Any, *grads: Tensor) -> Any:
    raise RuntimeError("streammix::next_site has no derivative; use write_site_read and birkhoff")


define(
    f"next_site(Tensor x, Tensor y, Tensor post, Tensor res, {PARAMETERS}, {SETTINGS}, float? tol)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _kernel,
    fake=_fake,
    save=lambda ctx, inputs, output: None,
    backward=_backward,
    vmap=False,
)
