"""A branch's outputs over time as orthogonal directions to write along (xHC, arXiv 2607.14530), in plain PyTorch."""

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

#: A direction whose square is this small a part of what it was before the others were taken out counts as none: what is
#: left of it is rounding.
NEGLIGIBLE = 1e-10


def temporal_basis(known: Tensor, filters: Tensor, tokens: int) -> Tensor:
    """known (..., time, C), whose last rows are the tokens, filters (j, length, C) -> (..., tokens, 1 + j, C).

    v_0 = y, the tokens' own rows, and what is orthogonal in  g_j[t] = sum_i filters[j, i] * y[t - i]  to those before.
    """
    return torch.stack(_steps(_vectors(known, filters, tokens))[0], -2)


def temporal_basis_backward(grad: Tensor, known: Tensor, filters: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Gradients of known and filters from that of the basis. A square that NEGLIGIBLE stands in for has none.

    From the gradient d of the w that a step w -= c v_i leaves, p being <d, v_i> / s_i:

        dv_i -= c d + p w_before,   ds_i += p c,   d -= p v_i,   and at last dv_i += 2 v_i ds_i
    """
    first = known.shape[-2] - tokens
    v, steps, squares, exact = _steps(_vectors(known, filters, tokens))
    d, dsquares = list(grad.unbind(-2)), [torch.zeros_like(square) for square in squares]
    for j in reversed(range(len(v))):
        d[j] = d[j] + torch.where(exact[j], 2 * dsquares[j], 0) * v[j]
        for i, (before, c) in reversed(list(enumerate(steps[j]))):
            p = _dot(d[j], v[i]) / squares[i]
            d[i] = d[i] - (c * d[j] + p * before)
            dsquares[i] = dsquares[i] + p * c
            d[j] = d[j] - p * v[i]
    dknown, dfilters = F.pad(d[0], (0, 0, first, 0)), []
    length = filters.shape[-2]
    padded = F.pad(known, (0, 0, length - 1, 0))
    for taps, g in zip(filters, d[1:]):
        starts = [first + length - 1 - i for i in range(length)]
        at = (F.pad(g * tap, (0, 0, start, first + length - 1 - start)) for tap, start in zip(taps, starts))
        dknown = dknown + reduce(torch.add, at).narrow(-2, length - 1, known.shape[-2])
        dfilters.append(torch.stack([(g * padded.narrow(-2, start, tokens)).flatten(0, -2).sum(0) for start in starts]))
    return dknown, torch.stack(dfilters)


def convolved(known: Tensor, taps: Tensor, tokens: int) -> Tensor:
    """g[t] = sum_i taps[i] * known[t - i] for the tokens, which are the last of the known; zeros go before."""
    length, first = len(taps), known.shape[-2] - tokens
    padded = F.pad(known, (0, 0, length - 1, 0))
    past = (padded.narrow(-2, first + length - 1 - i, tokens) * taps[i] for i in range(length))
    return reduce(torch.add, past)


def _vectors(known: Tensor, filters: Tensor, tokens: int) -> list[Tensor]:
    y = known.narrow(-2, known.shape[-2] - tokens, tokens)
    return [y, *(convolved(known, taps, tokens) for taps in filters)]


def _steps(
    vectors: Sequence[Tensor],
) -> tuple[list[Tensor], list[list[tuple[Tensor, Tensor]]], list[Tensor], list[Tensor]]:
    """Modified Gram-Schmidt without normalisation; what is left of a dependent vector is not divided by.

    -> v; for each the steps to it, (w before, c); its square s; and whether that is |v|^2.
    """
    basis: list[Tensor] = []
    steps: list[list[tuple[Tensor, Tensor]]] = []
    squares: list[Tensor] = []
    exact: list[Tensor] = []
    for vector in vectors:
        least = NEGLIGIBLE * _dot(vector, vector).detach()
        w, taken = vector, []
        for other, square in zip(basis, squares):
            c = _dot(w, other) / square
            taken.append((w, c))
            w = w - c * other
        square, tiny = _dot(w, w), torch.finfo(w.dtype).tiny
        basis.append(w)
        steps.append(taken)
        squares.append(torch.maximum(square, least).clamp(min=tiny))
        exact.append((square >= least) & (square >= tiny))
    return basis, steps, squares, exact


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)
