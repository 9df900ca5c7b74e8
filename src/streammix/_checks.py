"""What public functions ask of their arguments, in one wording: what came, and what is accepted."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless value is an integer (and no bool) of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: got {value!r}; accepted: integers >= {least}")


def is_integer(value: Any, least: int, most: int) -> bool:
    """Whether value is an integer (and no bool) from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_fraction(value: Any) -> bool:
    """Whether value is a number (and no bool) from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def check_number(name: str, value: Any, accepted: str, *, zero: bool = True) -> None:
    """Raise ValueError unless value is a finite number of at least zero, or above zero without `zero`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}: got {value!r}; accepted: {accepted}")


def check_name(what: str, name: Any, accepted: Iterable[str], by: str = "") -> None:
    """Raise ValueError unless name is one of those accepted, by `by` if it is given; the message lists them."""
    accepted = tuple(accepted)
    if name not in accepted:
        who = f"{by} accept" if by else "accepted:"
        raise ValueError(f"{what}: got {name!r}; {who} {', '.join(accepted)}{closest(name, accepted)}")


def check_called(what: str, name: Any, known: Iterable[str]) -> None:
    """Raise ValueError unless something is called by this name; the message lists what there is."""
    known = tuple(known)
    if name not in known:
        raise ValueError(f"{what}: none is called {name!r}; accepted: {', '.join(known)}{closest(name, known)}")


def closest(name: Any, accepted: Iterable[str]) -> str:
    """A question after the name that was probably meant, or ""."""
    from difflib import get_close_matches  # imported late because only an error needs it

    near = get_close_matches(str(name).replace("_", "-").lower(), list(accepted), 1, 0.7)
    return f"; did you mean {near[0]!r}?" if near else ""


FLOATING = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))


def check_floating(name: str, tensor: Any) -> None:
    """Raise TypeError unless tensor is a tensor of a real floating dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__name__}; accepted: a floating point tensor")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name}: got dtype {tensor.dtype}; accepted: float16, bfloat16, float32, float64")
    if tensor.layout is not torch.strided:
        check_dense(name, tensor)


def check_dense(name: str, tensor: Tensor) -> None:
    """Raise TypeError unless tensor is dense: no sparse, nested or opaque one."""
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: got a tensor of layout {tensor.layout}; accepted: dense tensors")


def check_square(name: str, matrices: Tensor) -> int:
    """n of (..., n, n) floating matrices, n >= 1, or an error."""
    check_floating(name, matrices)
    shape = matrices.shape
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ValueError(f"{name}: got shape {tuple(shape)}; accepted: (..., n, n) with n >= 1")
    return shape[-1]


def check_streams(x: Tensor) -> tuple[torch.Size, int, int]:
    """Batch, n and C of streams (..., n, C), n >= 1, or an error."""
    check_floating("x", x)
    if x.ndim < 2 or x.shape[-2] == 0:
        raise ValueError(f"x: got shape {tuple(x.shape)}; accepted: (..., n, C) with n >= 1 streams next to last")
    return x.shape[:-2], x.shape[-2], x.shape[-1]


def check_streams_at(x: Tensor, dim: int) -> tuple[torch.Size, int, int, int]:
    """The same of streams in dimension `dim`, and that dimension counted from the end."""
    if dim == -2:
        return *check_streams(x), dim
    check_floating("x", x)
    shape = x.shape
    if not is_integer(dim, -len(shape), len(shape) - 2) or dim == -1:
        raise ValueError(f"dim: got {dim!r}; accepted with x of shape {tuple(shape)}: a dimension before the last")
    if shape[dim] == 0:
        raise ValueError(f"x: got shape {tuple(shape)}; accepted: n >= 1 streams in dimension {dim}")
    dim = dim - len(shape) if dim >= 0 else dim
    return shape[:dim] + shape[dim + 1 : -1], shape[dim], shape[-1], dim


def check_shape(name: str, tensor: Tensor, batch: torch.Size, last: tuple[int, ...]) -> None:
    """Raise ValueError unless tensor is (*batch, *last), or its leading dimensions broadcast to batch."""
    check_floating(name, tensor)
    lead = tensor.shape[: tensor.ndim - len(last)]
    fits = tensor.shape[tensor.ndim - len(last) :] == last and len(lead) <= len(batch)
    if not fits or any(a not in (1, b) for a, b in zip(reversed(lead), reversed(batch))):
        raise ValueError(
            f"{name}: got shape {tuple(tensor.shape)}; accepted with these streams: {(*batch, *last)}"
            " or leading dimensions that broadcast to it"
        )


def widened(name: str, value: Any, ndim: int, shape: str) -> Tensor:
    """`value` in float32 at least; what every diagnostic asks of its input.

    Raises:
        TypeError: not a tensor, or not of a real floating dtype.
        ValueError: fewer than `ndim` dimensions, or no streams.
    """
    check_floating(name, value)
    if value.ndim < ndim or 0 in value.shape[value.ndim - ndim :]:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}; accepted: {shape} with n >= 1")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def widened_square(name: str, value: Any) -> Tensor:
    """`value` as (..., n, n) matrices in float32 at least, or an error."""
    check_square(name, value)
    return widened(name, value, 2, "(..., n, n)")
