"""Read and write at work: bytes a second, against what the machine does when it only copies."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from streammix import read, write
from streammix.bench.memory import keeping
from streammix.bench.timing import interleaved

COPY, CLONE = "copy", "copy into new memory"
PASSES = ("forward", "forward+backward")
KEPT, NEW = "kept", "new"
BUDGET = 2.0  # seconds for the samples of one call; see `interleaved`

Shape = tuple[int, int, int, torch.dtype]  # tokens, n, C, the streams' dtype


def streams(
    *,
    n: int = 4,
    sizes: Sequence[int] = (2, 4, 8),
    dims: Sequence[int] = (256, 512, 1024, 2048),
    tokens: Sequence[int] = (512, 2048, 8192),
    dim: int = 1024,
    copied: int = 1 << 25,
    turns: int = 15,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Seconds, bytes and bytes a second of `read` and `write`: one row a shape, operation and pass.

    The shape is (max(tokens), n, dim) in float32 and in bfloat16; then n, dim and tokens vary one at a time, in
    float32. Coefficients are float32. Outputs are in memory that malloc has kept from the call before (see
    `keeping`), as the copy's is; for the first two shapes also in memory that is new.

    Args:
        copied: numbers in the float32 tensor whose copy is the machine's bandwidth; many times the caches.

    Returns:
        Rows with "memory", kept or new, that of the outputs; "bytes", those that have to move: every tensor read once
        and written once; "of_copy", bytes a second over those of the copy in the same turns. A state that stays in a
        cache can exceed one.
    """
    source = torch.ones(copied)
    target = torch.empty_like(source)
    rows = []
    shapes = list(_shapes(n, sizes, dims, tokens, dim))
    for memory, shape in [(KEPT, shape) for shape in shapes] + [(NEW, shape) for shape in shapes[:2]]:
        tokens_, n_, C, dtype = shape
        name = str(dtype).removeprefix("torch.")
        progress(f"{tokens_} tokens, n = {n_}, C = {C}, {name}, {memory} memory")
        calls: dict[tuple[str, str], tuple[Callable[[], object], int]] = {
            (COPY, "forward"): (lambda: target.copy_(source), 2 * source.nbytes)
        }
        if memory == NEW:
            calls[CLONE, "forward"] = lambda: source.clone(), 2 * source.nbytes
        calls |= _calls(*shape)
        with keeping() if memory == KEPT else nullcontext(False) as keeps:
            timings = interleaved({" ".join(key): call for key, (call, _) in calls.items()}, turns=turns, budget=BUDGET)
        for (operation, which), (_, moved) in calls.items():
            timing = timings[f"{operation} {which}"]
            slowdown = timing.over(timings[f"{COPY} forward"])
            rows.append(
                {
                    "tokens": tokens_,
                    "n": n_,
                    "C": C,
                    "dtype": name,
                    "memory": KEPT if keeps else NEW,
                    "operation": operation,
                    "pass": which,
                    "seconds": timing.median,
                    "bytes": moved,
                    "gb_per_s": moved / timing.median / 1e9,
                    "of_copy": moved / (2 * source.nbytes) / slowdown,
                }
            )
    return rows


def _shapes(n: int, sizes: Sequence[int], dims: Sequence[int], tokens: Sequence[int], dim: int) -> Iterable[Shape]:
    most = max(tokens)
    shapes = [(most, n, dim, torch.float32), (most, n, dim, torch.bfloat16)]
    shapes += [(most, size, dim, torch.float32) for size in sizes]
    shapes += [(most, n, C, torch.float32) for C in dims]
    shapes += [(count, n, dim, torch.float32) for count in tokens]
    return dict.fromkeys(shapes)


def _calls(tokens: int, n: int, C: int, dtype: torch.dtype) -> dict[tuple[str, str], tuple[Callable[[], object], int]]:
    """(operation, pass) -> a call and the bytes it has to move."""
    torch.manual_seed(0)
    x = torch.randn(tokens, n, C).to(dtype).requires_grad_()
    y = torch.randn(tokens, C).to(dtype).requires_grad_()
    pre, post = (torch.randn(tokens, n, requires_grad=True) for _ in range(2))
    res = torch.randn(tokens, n, n, requires_grad=True)
    grad_u, grad_x = torch.randn(tokens, C).to(dtype), torch.randn(tokens, n, C).to(dtype)
    # u = read(x, pre), (grad_u, x, pre) -> gradients of (x, pre); write alike
    once = {
        ("read", "forward"): (x, pre, grad_u),
        ("read", "backward"): (grad_u, x, pre, x, pre),
        ("write", "forward"): (x, y, post, res, x),
        ("write", "backward"): (grad_x, x, y, post, res, x, y, post, res),
    }
    moved = {key: sum(tensor.nbytes for tensor in tensors) for key, tensors in once.items()}
    calls: dict[tuple[str, str], tuple[Callable[[], object], int]] = {}
    for name, function, inputs, grad in (
        ("read", read, (x, pre), grad_u),
        ("write", write, (x, y, post, res), grad_x),
    ):
        forward = moved[name, "forward"]
        calls[name, "forward"] = _no_grad(function, inputs), forward
        calls[name, "forward+backward"] = _with_grad(function, inputs, grad), forward + moved[name, "backward"]
    return calls


def _no_grad(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    return torch.no_grad()(lambda: function(*inputs))


def _with_grad(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(function(*inputs), inputs, grad)
