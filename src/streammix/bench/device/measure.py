"""The measurements: rows of plain numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streammix import backend, backends, birkhoff, sinkhorn
from streammix.bench.projection.contenders import plain_sinkhorn
from streammix.bench.projection.logits import FAMILIES
from streammix.bench.projection.measure import both, forward
from streammix.bench.site.models import gpt, text
from streammix.lab.config import RESIDUAL
from streammix.ops.registry import DISPATCHED, EAGER, operators

from . import peers
from .clock import Clock

Progress = Callable[[str], None]
Row = dict[str, Any]
SETTINGS = (0.0, 1e-6, 1, 2, 0.0, 1.0, 0.0)  # of a site like mhc's
EXACT = (0, 0, False, False, 0.0)
#: Numbers of the streams' type that a write, the coefficients and the next read move a token and channel, n streams:
#: counted by the tests from the kernels' accesses.
FORWARD_WORDS, BACKWARD_WORDS = (lambda n: 3 * n + 2), (lambda n: 5 * n + 4)


def copy(clock: Clock) -> list[Row]:
    """What a large copy moves a second, read and written."""
    source = torch.empty(2**28 if clock.device == "cuda" else 2**22, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    (seconds,) = clock.seconds({"copy": lambda: target.copy_(source)}).values()
    return [{"bytes": 2 * source.numel(), "seconds": seconds, "gb_per_s": 2 * source.numel() / seconds / 1e9}]


def projection(clock: Clock, *, n: int, batches: Sequence[int], compile: bool, progress: Progress) -> list[Row]:
    """Nanoseconds a matrix, forward and forward + backward, beside truncated Sinkhorn."""
    rows = []
    for batch in batches:
        torch._dynamo.reset()
        maps: dict[str, Callable[[Tensor], Tensor]] = {
            "birkhoff": birkhoff,
            "sinkhorn-20": lambda R: sinkhorn(R, rounds=20, recipe="deepseek-v4"),
        }
        if compile:
            maps["sinkhorn-20 compiled"] = torch.compile(plain_sinkhorn, dynamic=False)
        maps |= peers.projections(n)
        for family in ("N(0,1)", "N(0,10^2)"):
            progress(f"{batch} matrices, {family}")
            torch.manual_seed(0)
            R = FAMILIES[family](batch, n).to(clock.device)
            for which in ("forward", "forward+backward"):
                calls = (forward if which == "forward" else both)(maps, R)
                for name, seconds in clock.seconds(calls).items():
                    ns = seconds / batch * 1e9
                    row = {"family": family, "n": n, "batch": batch, "pass": which, "contender": name}
                    rows.append(row | {"ns_per_matrix": ns})
    return rows


def site(
    clock: Clock,
    *,
    n: int,
    dims: Sequence[int],
    tokens: int,
    gb_per_s: float,
    compile: bool,
    progress: Progress,
) -> list[Row]:
    """All that lies between two branches, bfloat16 streams: microseconds, bytes a second and their share of a
    copy's."""
    rows = []
    for C in dims:
        progress(f"C = {C}")
        torch._dynamo.reset()
        contenders = {"kernels": operators[DISPATCHED].write_mixed_site_read}
        eager = operators[EAGER]
        contenders["plain formulas"] = eager.write_mixed_site_read
        if compile:
            contenders["plain formulas, compiled"] = torch.compile(plain_site, dynamic=False)
        torch.manual_seed(0)
        new = lambda *shape: torch.randn(*shape, device=clock.device)  # noqa: E731
        x, y = new(tokens, n, C).bfloat16(), new(tokens, C).bfloat16()
        post, res = new(tokens, n).sigmoid(), birkhoff(new(tokens, n, n))
        k = n * n + 2 * n
        parameters = new(k, n * C) / (n * C) ** 0.5, new(3), new(k)
        inputs = [t.requires_grad_() for t in (x, y, post, res, *parameters)]
        for which, words in (("forward", FORWARD_WORDS(n)), ("forward+backward", FORWARD_WORDS(n) + BACKWARD_WORDS(n))):
            calls = {name: _site_call(f, inputs, backward=which != "forward") for name, f in contenders.items()}
            for name, f in peers.sites().items():
                calls[name] = _site_call(f, peers.transposed(inputs), backward=which != "forward")
            moved = 2 * words * C * tokens
            for name, seconds in clock.seconds(calls).items():
                rate = moved / seconds / 1e9
                row = {"C": C, "n": n, "tokens": tokens, "pass": which, "contender": name, "us": seconds * 1e6}
                rows.append(row | {"gb_per_s": rate, "of_copy": rate / gb_per_s})
    return rows


def plain_site(
    x: Tensor, y: Tensor, post: Tensor, res: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, *_: Any
) -> Any:
    """What one writes without this library: mHC's formulas with 20 Sinkhorn rounds, for torch.compile."""
    n = x.shape[-2]
    state = (res @ x.float() + post.unsqueeze(-1) * y.float().unsqueeze(-2)).to(x.dtype)
    v = state.flatten(-2).float()
    P = F.linear(v, weight) * torch.rsqrt(v.square().mean(-1, keepdim=True) + 1e-6)
    pre, next_post, mix = P.split((n, n, n * n), -1)
    pre = (gate[0] * pre + bias[:n]).sigmoid()
    next_post = 2 * (gate[1] * next_post + bias[n : 2 * n]).sigmoid()
    H = plain_sinkhorn((gate[2] * mix + bias[2 * n :]).unflatten(-1, (n, n)))
    u = (pre.unsqueeze(-2) @ state.float()).squeeze(-2).to(x.dtype)
    return state, u, next_post, H


def _site_call(function: Callable[..., Any], inputs: list[Tensor], *, backward: bool) -> Callable[[], object]:
    def alone() -> Any:
        with torch.no_grad():
            return function(*inputs, *SETTINGS, *EXACT)

    if not backward:
        return alone
    outputs = alone()[:4]
    grads = [torch.randn_like(out) for out in outputs]

    def forward_backward() -> object:
        made = function(*inputs, *SETTINGS, *EXACT)[:4]
        return torch.autograd.grad(made, inputs, grads)

    return forward_backward


def step(clock: Clock, *, n: int, dim: int, layers: int, batch: int, context: int, progress: Progress) -> list[Row]:
    """A training step of a GPT under bfloat16 autocast (forward, loss, backward): plain, and with mhc."""
    tokens, targets = (t.to(clock.device) for t in text(batch, context))
    calls: dict[str, Callable[[], object]] = {}
    names = [b.name for b in backends() if b.chosen and clock.device in b.devices]
    for name, recipe, kind in (
        (RESIDUAL, RESIDUAL, "auto"),
        ("mhc", "mhc", "auto"),
        ("mhc, plain formulas", "mhc", "eager"),
    ):
        if kind == "eager" and not names:
            continue
        progress(name)
        model = gpt(recipe, dim, n, layers, batch, context).to(clock.device)
        calls[name] = _step(model, tokens, targets, kind, clock.device)
    seconds = clock.seconds(calls)
    shape = {"dim": dim, "layers": layers, "tokens": tokens.numel()}
    plain = next(iter(seconds.values()))
    return [shape | {"model": name, "ms": s * 1e3, "over_residual": s / plain} for name, s in seconds.items()]


def _step(model: torch.nn.Module, tokens: Tensor, targets: Tensor, kind: str, device: str) -> Callable[[], object]:
    parameters = list(model.parameters())

    def call() -> object:
        with backend(kind), torch.autocast(device, dtype=torch.bfloat16):
            logits = model(tokens)
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
            return torch.autograd.grad(loss, parameters)

    return call
