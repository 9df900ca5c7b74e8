"""One site without a branch: coefficients, read, write, against the residual add that it stands in for."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streammix import HyperConnection, birkhoff
from streammix.bench.timing import interleaved
from streammix.ops.backend import backend

RESIDUAL, OURS = "residual", "streammix"
BUDGET = 2.0  # seconds for the samples of one contender; see `interleaved`

Call = Callable[[], object]


def one_site(
    *,
    n: int = 4,
    dims: Sequence[int] = (512, 1024),
    tokens: int = 2048,
    turns: int = 15,
    compile: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Seconds of a site of recipe mhc whose branch is the identity, float32: one row a width, pass and contender.

    Contenders: the plain residual add x + y; streammix, also under torch.compile; streammix with backend "eager";
    the formulas under torch.compile (see `formulas`). "over_residual" is the ratio to the first.
    """
    rows = []
    for dim in dims:
        progress(f"C = {dim}")
        torch._dynamo.reset()
        forward, both = _calls(dim, n, tokens, compile)
        for which, calls in (("forward", forward), ("forward+backward", both)):
            timings = interleaved(calls, turns=turns, budget=BUDGET)
            for name, timing in timings.items():
                row = {"C": dim, "n": n, "tokens": tokens, "pass": which, "contender": name}
                row |= {"seconds": timing.median, "over_residual": timing.over(timings[RESIDUAL])}
                rows.append(row)
    return rows


def _calls(dim: int, n: int, tokens: int, compile: bool) -> tuple[dict[str, Call], dict[str, Call]]:
    """The contenders forward without autograd, and forward and backward."""
    torch.manual_seed(0)
    site = HyperConnection(lambda u: u, dim, n, site=0)
    sites: dict[str, Callable[[Tensor], Tensor]] = {OURS: site, f"{OURS}, eager backend": _eager(site)}
    if compile:
        sites[f"{OURS}, compiled"] = torch.compile(site, dynamic=False)
        sites["formulas, compiled"] = torch.compile(formulas(site), dynamic=False)
    x, grad = torch.randn(tokens, n, dim, requires_grad=True), torch.randn(tokens, n, dim)
    weights = [x, *site.parameters()]
    y, z, grad_y = (torch.randn(tokens, dim) for _ in range(3))
    plain = [y.requires_grad_(), z.requires_grad_()]
    forward: dict[str, Call] = {RESIDUAL: torch.no_grad()(lambda: y + z)}
    both: dict[str, Call] = {RESIDUAL: lambda: torch.autograd.grad(y + z, plain, grad_y)}
    for name, call in sites.items():
        forward[name] = torch.no_grad()(partial(call, x))
        both[name] = partial(_gradients, call, weights, grad)
    return forward, both


def _gradients(call: Callable[[Tensor], Tensor], weights: Sequence[Tensor], grad: Tensor) -> object:
    return torch.autograd.grad(call(weights[0]), weights, grad)


def formulas(site: HyperConnection) -> Callable[[Tensor], Tensor]:
    """The same site of recipe mhc written out, so that torch.compile can fuse all of it but the projection."""
    n = site.streams
    sizes = (n, n, n * n)
    logits: Any = site.logits

    def call(x: Tensor) -> Tensor:
        flat = x.flatten(-2)
        inverse_rms = torch.rsqrt(flat.square().mean(-1, keepdim=True) + logits.norm_eps)
        groups = (F.linear(flat, logits.weight) * inverse_rms).split(sizes, -1)
        pre, post, mix = (g * m + b for g, m, b in zip(logits.gate, groups, logits.bias.split(sizes)))
        u = (pre.sigmoid().unsqueeze(-1) * x).sum(-2)
        res = birkhoff(mix.unflatten(-1, (n, n)))
        mixed = (res.unsqueeze(-1) * x.unsqueeze(-3)).sum(-2)
        return mixed + (2 * post.sigmoid()).unsqueeze(-1) * u.unsqueeze(-2)

    return call


def _eager(site: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with backend("eager"):
            return site(x)

    return call
