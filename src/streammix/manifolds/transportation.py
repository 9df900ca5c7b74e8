from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .._parameters import assign, parameter_dtype
from ..ops.eager.chart import BETA, EPS
from .base import OFF_DIAGONAL, Guarantees, Manifold

IDENTITY_LOGIT = 8.0


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
        self._check(logits)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.streams == 1:  # no logits; autograd sees them all the same
            return logits.new_ones(*logits.shape[:-1], 1, 1) + logits.sum(-1)[..., None, None]
        H = ops.chart(logits, self.streams, self.chart == "recursive", self.scaled)
        H = H.mT if self.transposed else H
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
