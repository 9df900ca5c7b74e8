from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .base import OFF_DIAGONAL, Guarantees, Manifold
from .precision import parameter_dtype

BETA, EPS = 4.0, 1e-3  # of the scaled choice; its slope at the midpoint is then nearly one
IDENTITY_LOGIT = 8.0

Choose = Callable[[Tensor, Tensor], Tensor]  # (lower, upper) -> a number between, by the next logit
Vector = list[Tensor]


class Transportation(Manifold):
    r"""Doubly stochastic matrices, entry by entry: each :math:`H_{ij} \in [L_{ij}, U_{ij}]`, what the margins leave.

        choose(L, U) = L + (U - L) sigmoid(t)

    (TBP and RTBP, arXiv 2605.21724, and its code.) A chart of the whole polytope's interior by (n - 1)^2 logits, as
    many as it has dimensions. With remaining row and column margins r and c, which start at one:

    chart "sequential" (TBP): for i, j < n - 1 in row-major order choose H_ij between max(0, r_i - sum_{k>j} c_k,
    c_j - sum_{k>i} r_k) and min(r_i, c_j); the last column and row are what remains.

    chart "recursive" (RTBP): choose the mass of the upper left of four blocks; split the block masses over their rows
    and columns by binary trees; recurse. For odd n the last row and column are peeled off first, corner first. (n -
    1)^2 logits in order of choice.

    The source starts at zero logits, the midpoints: for "recursive" and n a power of two that is J = 11'/n exactly,
    which erases all differences between streams. `identity_logits` is a start near the identity instead.

    Args:
        streams: n >= 1.
        chart: "sequential" or "recursive".
        scaled: STBP and SRTBP: sigmoid(4 t / (U - L + 1e-3)), whose slope does not shrink with the interval.
        minorised: (1 - d) H + d J with a learned d = sigmoid(share), share = -8 at first, keeps every entry above zero:
            the source's option against mixing that falls apart into blocks.

    Raises:
        ValueError: chart is neither.
    """

    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True)

    def __init__(
        self, streams: int, *, chart: str = "sequential", scaled: bool = False, minorised: bool = False
    ) -> None:
        super().__init__(streams)
        if chart not in ("sequential", "recursive"):
            raise ValueError(f"chart: got {chart!r}; accepted: sequential, recursive")
        self.chart = chart
        self.scaled = scaled
        self.num_logits = (streams - 1) ** 2
        self.share = nn.Parameter(torch.empty((), dtype=parameter_dtype())) if minorised else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.share is not None:
            nn.init.constant_(self.share, OFF_DIAGONAL)

    def forward(self, logits: Tensor) -> Tensor:
        logits = self._wide(logits)
        t = iter(logits.unbind(-1))

        def choose(lower: Tensor, upper: Tensor) -> Tensor:
            width = (upper - lower).clamp(min=0)
            logit = next(t)
            return lower + width * (BETA * logit / (width + EPS) if self.scaled else logit).sigmoid()

        fill = _sequential if self.chart == "sequential" else _recursive
        ones = [logits.new_ones(logits.shape[:-1])] * self.streams
        H = torch.stack([torch.stack(row, -1) for row in fill(ones, ones, choose)], -2)
        if self.share is None:
            return H
        return H.lerp(torch.full_like(H, 1 / self.streams), self.share.to(H.dtype).sigmoid())

    def identity_logits(self) -> Tensor:
        if self.chart == "sequential":
            width = torch.eye(self.streams - 1).flatten()
        else:
            width = torch.tensor(list(_widths_on_the_diagonal(self.streams)))
        return torch.where(width > 0, IDENTITY_LOGIT * ((width + EPS) / BETA if self.scaled else 1), 0)

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
            lower = torch.maximum(r[i] - _sum(c[j + 1 :]), c[j] - _sum(r[i + 1 :])).clamp(min=0)
            entry = choose(lower, torch.minimum(r[i], c[j]))
            X[i].append(entry)
            r[i], c[j] = r[i] - entry, c[j] - entry
        X[i].append(r[i])
        c[-1] = c[-1] - r[i]
    return [*X, c]


def _recursive(r: Vector, c: Vector, choose: Choose) -> list[Vector]:
    n, h = len(r), len(r) // 2
    if n == 1:
        return [r]
    if n % 2:  # corner, last column, last row, then the rest
        corner = choose((r[-1] - _sum(c[:-1])).clamp(min=0), torch.minimum(r[-1], c[-1]))
        column = _split(c[-1] - corner, r[:-1], choose)
        row = _split(r[-1] - corner, c[:-1], choose)
        rest = _recursive(_minus(r[:-1], column), _minus(c[:-1], row), choose)
        return [*([*inner, last] for inner, last in zip(rest, column)), [*row, corner]]
    top, bottom, left, right = r[:h], r[h:], c[:h], c[h:]
    R1, C1 = _sum(top), _sum(left)
    m11 = choose((R1 - _sum(right)).clamp(min=0), torch.minimum(R1, C1))
    m12, m21 = R1 - m11, C1 - m11
    top11, bottom21 = _split(m11, top, choose), _split(m21, bottom, choose)
    left11, right12 = _split(m11, left, choose), _split(m12, right, choose)
    X11 = _recursive(top11, left11, choose)
    X12 = _recursive(_minus(top, top11), right12, choose)
    X21 = _recursive(bottom21, _minus(left, left11), choose)
    X22 = _recursive(_minus(bottom, bottom21), _minus(right, right12), choose)
    return [[*a, *b] for a, b in (*zip(X11, X12), *zip(X21, X22))]


def _split(mass: Tensor, caps: Vector, choose: Choose) -> Vector:
    """Shares of a mass, each within its cap, by a binary tree: len(caps) - 1 choices."""
    if len(caps) == 1:
        return [mass]
    left, right = caps[: len(caps) // 2], caps[len(caps) // 2 :]
    share = choose((mass - _sum(right)).clamp(min=0), torch.minimum(mass, _sum(left)))
    return [*_split(share, left, choose), *_split(mass - share, right, choose)]


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


def _minus(a: Vector, b: Vector) -> Vector:
    return [x - y for x, y in zip(a, b)]


def _sum(v: Vector) -> Tensor:
    total = v[0]
    for x in v[1:]:
        total = total + x
    return total
