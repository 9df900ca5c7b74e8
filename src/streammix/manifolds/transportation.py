from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._parameters import assign, parameter_dtype
from .base import OFF_DIAGONAL, Guarantees, Manifold

BETA, EPS = 4.0, 1e-3  # of the scaled choice; its slope at the midpoint is then nearly one
IDENTITY_LOGIT = 8.0

Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (L, U) -> x - L and U - x by the next logit, both >= 0
Vector = list[Tensor]
Split = Callable[[Tensor, Tensor, Vector, Choose], tuple[Vector, Vector]]


class Transportation(Manifold):
    r"""Doubly stochastic matrices, entry by entry: each :math:`H_{ij} \in [L_{ij}, U_{ij}]`, what the margins leave.

        choose(L, U) = L + (U - L) sigmoid(t)

    (TBP and RTBP, arXiv 2605.21724, and its code.) A chart of the whole polytope's interior by (n - 1)^2 logits, as
    many as it has dimensions. With remaining row and column margins r and c, which start at one:

    chart "sequential" (TBP): for i, j < n - 1 in row-major order choose H_ij between max(0, r_i - sum_{k>j} c_k,
    c_j - sum_{k>i} r_k) and min(r_i, c_j); the last column and row are what remains.

    chart "recursive" (RTBP): choose the mass of the upper left of four blocks; split the block masses over their rows
    and columns; recurse. Where n is odd the last row and column are peeled off first, corner first. A mass is split as
    in the source: for n a power of two by binary trees (its RTBP2N), for any other n one row or column after the other
    (its RTBP). (n - 1)^2 logits in order of choice.

    No entry is ever negative: what a choice leaves of a margin is made of parts that are not, r - x = (r - U) + (U -
    x), instead of by a difference that rounding can push below zero.

    The source starts at zero logits, the midpoints: for "recursive" and n a power of two that is J = 11'/n exactly,
    which erases all differences between streams. `identity_logits` is a start near the identity instead.

    Args:
        streams: n >= 1.
        chart: "sequential" or "recursive".
        scaled: STBP and SRTBP: sigmoid(4 t / (U - L + 1e-3)), whose slope does not shrink with the interval.
        transposed: the transpose of the chart's matrix, as the source's code applies it. A chart is filled row by
            row, so that this is no chart of transposed logits.
        minorised: (1 - d) H + d J with a learned d = sigmoid(share), share = -8 at first, keeps every entry above zero,
            against mixing that falls apart into blocks. The source's layers have it on unless told otherwise, and so
            have the recipes tbp and rtbp.

    Raises:
        ValueError: chart is neither.
    """

    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True)
    _version = 2  # of the state dict; 1: the recipes tbp and rtbp were not minorised

    def __init__(
        self,
        streams: int,
        *,
        chart: str = "sequential",
        scaled: bool = False,
        minorised: bool = False,
        transposed: bool = False,
    ) -> None:
        super().__init__(streams)
        if chart not in ("sequential", "recursive"):
            raise ValueError(f"chart: got {chart!r}; accepted: sequential, recursive")
        self.chart = chart
        self.scaled, self.transposed = scaled, transposed
        self.num_logits = (streams - 1) ** 2
        self.share = nn.Parameter(torch.empty(1, dtype=parameter_dtype())) if minorised else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.share is not None:
            assign(self.share, OFF_DIAGONAL)

    def forward(self, logits: Tensor) -> Tensor:
        logits = self._wide(logits)
        t = iter(logits.unbind(-1))

        def choose(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
            width = (upper - lower).clamp(min=0)
            logit = next(t)
            logit = BETA * logit / (width + EPS) if self.scaled else logit
            above = width * logit.sigmoid()
            return above, width - above

        ones = [logits.new_ones(logits.shape[:-1])] * self.streams
        rows = _sequential(ones, ones, choose) if self.chart == "sequential" else _recursive(ones, ones, choose)
        # Rows become columns where the transpose is asked for.
        H = torch.stack([torch.stack(row, -1) for row in rows], -1 if self.transposed else -2)
        if self.share is None:
            return H
        return H.lerp(torch.full_like(H, 1 / self.streams), self.share.to(H.dtype).sigmoid())

    def identity_logits(self) -> Tensor:
        if self.chart == "sequential":
            width = torch.eye(self.streams - 1).flatten()
        else:
            width = torch.tensor(list(_widths_on_the_diagonal(self.streams)))
        return torch.where(width > 0, IDENTITY_LOGIT * ((width + EPS) / BETA if self.scaled else 1), 0)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any], *args: Any
    ) -> None:
        """A state saved before there was a share keeps its meaning: d = sigmoid(-inf) = 0, which stays so."""
        key = f"{prefix}share"
        if key in state_dict and state_dict[key].ndim == 0:  # saved when it was a scalar, which FSDP cannot shard
            state_dict[key] = state_dict[key].reshape(1)
        if self.share is not None and key not in state_dict and (local_metadata.get("version") or 1) < 2:
            state_dict[key] = torch.full((1,), -torch.inf, dtype=self.share.dtype)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, chart={self.chart!r}, scaled={self.scaled}" + (
            "" if self.share is None else ", minorised=True"
        )


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


def _split_in_halves(mass: Tensor, left_over: Tensor, caps: Vector, choose: Choose) -> tuple[Vector, Vector]:
    """By a binary tree."""
    if len(caps) == 1:
        return [mass], [left_over]
    left, right = caps[: len(caps) // 2], caps[len(caps) // 2 :]
    (share, over), (rest, rest_over) = _part(mass, _sum(left), _sum(right), choose)
    shares, overs = _split_in_halves(share, over, left, choose)
    rests, rest_overs = _split_in_halves(rest, rest_over, right, choose)
    return [*shares, *rests], [*overs, *rest_overs]


def _split_in_turn(mass: Tensor, left_over: Tensor, caps: Vector, choose: Choose) -> tuple[Vector, Vector]:
    """The first share, then the second of what is left, ..."""
    if len(caps) == 1:
        return [mass], [left_over]
    (share, over), (rest, rest_over) = _part(mass, caps[0], _sum(caps[1:]), choose)
    shares, overs = _split_in_turn(rest, rest_over, caps[1:], choose)
    return [share, *shares], [over, *overs]


def _part(mass: Tensor, cap: Tensor, other_cap: Tensor, choose: Choose) -> tuple[tuple[Tensor, Tensor], ...]:
    """A mass in two, each part with what its cap holds beyond it."""
    least = mass - other_cap
    lower, upper = least.clamp(min=0), torch.minimum(mass, cap)
    above, below = choose(lower, upper)
    return (lower + above, cap - upper + below), (mass - upper + below, lower - least + above)


def _bounds(row: Tensor, column: Tensor, least_of_row: Tensor, least_of_column: Tensor) -> tuple[Tensor, Tensor]:
    """L and U of an entry (or block) with these margins, which needs so much for the others to hold the rest."""
    return torch.maximum(least_of_row, least_of_column).clamp(min=0), torch.minimum(row, column)


def _widths_on_the_diagonal(n: int) -> Iterator[float]:
    """For each choice of the recursive chart: U - L if it gives the diagonal its mass, else 0. The latter are choices
    in next to empty intervals once the diagonal has its mass."""
    h = n // 2
    if n < 2:
        return
    yield 1.0 if n % 2 else float(h)
    yield from [0.0] * (2 * (n - 2))
    if n % 2:
        yield from _widths_on_the_diagonal(n - 1)
    else:
        yield from _widths_on_the_diagonal(h)
        yield from [0.0] * (2 * (h - 1) ** 2)
        yield from _widths_on_the_diagonal(h)


def _sum(v: Vector) -> Tensor:
    total = v[0]
    for x in v[1:]:
        total = total + x
    return total
