"""The charts of the transportation polytope (TBP and RTBP, arXiv 2605.21724) in plain PyTorch."""

from collections.abc import Callable, Iterator
from functools import reduce
from operator import add

import torch
from torch import Tensor

from .tape import Number, gradients, maximum, minimum

BETA, EPS = 4.0, 1e-3  # of the scaled choice; its slope at the midpoint is then nearly one

Choose = Callable[[Number, Number], tuple[Number, Number]]  # (L, U) -> x - L and U - x by the next logit, both >= 0
Vector = list[Number]
Split = Callable[[Number, Number, Vector, Choose], tuple[Vector, Vector]]


def chart(logits: Tensor, n: int, recursive: bool, scaled: bool) -> Tensor:
    """(..., (n - 1)^2) -> (..., n, n): each entry (or mass) between its bounds L and U, what the margins leave it.

    choose(L, U) = L + (U - L) sigmoid(t), or scaled L + (U - L) sigmoid(4 t / (U - L + 1e-3)). A matrix is NaN if one
    of its logits is not finite, and then they have no gradient.
    """
    t, finite = _logits(logits)
    H = torch.stack([x.value for x in _entries(t, n, recursive, scaled)], -1).unflatten(-1, (n, n))
    return torch.where(finite.unsqueeze(-1), H, torch.nan)


def chart_backward(grad: Tensor, logits: Tensor, n: int, recursive: bool, scaled: bool) -> Tensor:
    """Gradient of the logits from that of the matrices. Of bounds that tie, each has half."""
    t, finite = _logits(logits)
    H = _entries(t, n, recursive, scaled)
    return torch.where(finite, torch.stack(gradients(H, grad.flatten(-2).unbind(-1), t), -1), 0)


def _logits(logits: Tensor) -> tuple[Vector, Tensor]:
    """One by one, zeros in place of a matrix's that are not all finite; and whether they are (..., 1)."""
    finite = (logits.detach() * 0).sum(-1, keepdim=True) == 0
    return [Number(t) for t in torch.where(finite, logits, 0).unbind(-1)], finite


def _entries(logits: Vector, n: int, recursive: bool, scaled: bool) -> Vector:
    """H row by row."""
    t: Iterator[Number] = iter(logits)

    def choose(lower: Number, upper: Number) -> tuple[Number, Number]:
        width = (upper - lower).positive()
        logit = next(t).per(width, BETA, EPS) if scaled else next(t)
        above = width * logit.sigmoid()
        return above, width - above

    ones = [Number(torch.ones_like(logits[0].value))] * n
    rows = _recursive(ones, ones, choose) if recursive else _sequential(ones, ones, choose)
    return [x for row in rows for x in row]


def _sequential(r: Vector, c: Vector, choose: Choose) -> list[Vector]:
    n, r, c = len(r), list(r), list(c)
    X: list[Vector] = []
    for i in range(n - 1):
        X.append([])
        for j in range(n - 1):
            least_of_row, least_of_column = r[i] - _sum(c[j + 1 :]), c[j] - _sum(r[i + 1 :])
            lower, upper = _bounds(r[i], c[j], least_of_row, least_of_column)
            above, below = choose(lower, upper)
            X[i].append(lower + above)
            r[i], c[j] = r[i] - upper + below, c[j] - upper + below
        X[i].append(r[i])
        c[-1] = lower - least_of_row + above  # = c[-1] - r[i], the last choice having had only c[-1] behind it
    return [*X, c]


def _recursive(r: Vector, c: Vector, choose: Choose, split: Split | None = None) -> list[Vector]:
    n, h = len(r), len(r) // 2
    split = split or (_split_in_halves if n & (n - 1) == 0 else _split_in_turn)
    if n == 1:
        return [r]
    if n % 2:  # corner, last column, last row, then the rest
        least_of_row, least_of_column = r[-1] - _sum(c[:-1]), c[-1] - _sum(r[:-1])
        lower, upper = _bounds(r[-1], c[-1], least_of_row, least_of_column)
        above, below = choose(lower, upper)
        column, rest_r = split(c[-1] - upper + below, lower - least_of_column + above, r[:-1], choose)
        row, rest_c = split(r[-1] - upper + below, lower - least_of_row + above, c[:-1], choose)
        rest = _recursive(rest_r, rest_c, choose, split)
        return [*([*inner, last] for inner, last in zip(rest, column)), [*row, lower + above]]
    top, bottom, left, right = r[:h], r[h:], c[:h], c[h:]
    R1, R2, C1, C2 = _sum(top), _sum(bottom), _sum(left), _sum(right)
    lower, upper = _bounds(R1, C1, R1 - C2, C1 - R2)
    above, below = choose(lower, upper)
    m11, m12, m21 = lower + above, R1 - upper + below, C1 - upper + below
    m22_of_rows, m22_of_columns = lower - (C1 - R2) + above, lower - (R1 - C2) + above
    top11, top12 = split(m11, m12, top, choose)
    bottom21, bottom22 = split(m21, m22_of_rows, bottom, choose)
    left11, left21 = split(m11, m21, left, choose)
    right12, right22 = split(m12, m22_of_columns, right, choose)
    X11 = _recursive(top11, left11, choose, split)
    X12 = _recursive(top12, right12, choose, split)
    X21 = _recursive(bottom21, left21, choose, split)
    X22 = _recursive(bottom22, right22, choose, split)
    return [[*a, *b] for a, b in (*zip(X11, X12), *zip(X21, X22))]


# A split shares a mass among rows or columns, each within its cap, by len(caps) - 1 choices. `left_over` is what the
# caps hold beyond the mass. -> the shares, and what each cap holds beyond its share.


def _split_in_halves(mass: Number, left_over: Number, caps: Vector, choose: Choose) -> tuple[Vector, Vector]:
    """By a binary tree."""
    if len(caps) == 1:
        return [mass], [left_over]
    left, right = caps[: len(caps) // 2], caps[len(caps) // 2 :]
    (share, over), (rest, rest_over) = _part(mass, _sum(left), _sum(right), choose)
    shares, overs = _split_in_halves(share, over, left, choose)
    rests, rest_overs = _split_in_halves(rest, rest_over, right, choose)
    return [*shares, *rests], [*overs, *rest_overs]


def _split_in_turn(mass: Number, left_over: Number, caps: Vector, choose: Choose) -> tuple[Vector, Vector]:
    """The first share, then the second of what is left, ..."""
    if len(caps) == 1:
        return [mass], [left_over]
    (share, over), (rest, rest_over) = _part(mass, caps[0], _sum(caps[1:]), choose)
    shares, overs = _split_in_turn(rest, rest_over, caps[1:], choose)
    return [share, *shares], [over, *overs]


def _part(mass: Number, cap: Number, other_cap: Number, choose: Choose) -> tuple[tuple[Number, Number], ...]:
    """A mass in two, each part with what its cap holds beyond it."""
    least = mass - other_cap
    lower, upper = least.positive(), minimum(mass, cap)
    above, below = choose(lower, upper)
    return (lower + above, cap - upper + below), (mass - upper + below, lower - least + above)


def _bounds(row: Number, column: Number, least_of_row: Number, least_of_column: Number) -> tuple[Number, Number]:
    """L and U of an entry (or block) with these margins, which needs so much for the others to hold the rest."""
    return maximum(least_of_row, least_of_column).positive(), minimum(row, column)


def _sum(v: Vector) -> Number:
    return reduce(add, v)
