"""Truncated Sinkhorn-Knopp in plain PyTorch, as each published implementation does it.

A recipe is a start (logits -> positive matrix) and a number of rounds, each dividing by the sums along two axes. The
orientation is the source's own: `transposed` says that the source applies the transpose of the matrix returned here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ROWS, COLUMNS = -1, -2  # the axis summed over


@dataclass(frozen=True)
class SinkhornRecipe:
    """How one published implementation runs Sinkhorn-Knopp.

    start: "softmax": softmax over rows, + eps, counted as the first row normalisation;
        "exp": exp(logits - their maximum along the first axis of a round);
        "log": the whole first round in the log domain, then exp. Equal to exp(logits) and a first round in exact
        arithmetic; no overflow, and no row or column can vanish afterwards.
    axes: the order within a round.
    eps: how a sum s enters the division: s + eps ("add"), max(s, eps) ("clamp").
    transposed: the source applies the transpose of its matrix to the streams.
    """

    start: Literal["softmax", "exp", "log"]
    axes: tuple[int, int]
    eps: float = 0.0
    guard: Literal["add", "clamp"] = "add"
    transposed: bool = False
    source: str = ""

    def schedule(self, rounds: int) -> tuple[int, ...]:
        """The axes divided by after the start."""
        done = {"softmax": 1, "exp": 0, "log": 2}[self.start]
        return (self.axes * rounds)[done:]


RECIPES: dict[str, SinkhornRecipe] = {
    "mhc": SinkhornRecipe("log", (COLUMNS, ROWS), source="arXiv 2512.24880, Eq. 9"),
    "deepseek-v4": SinkhornRecipe(
        "softmax", (ROWS, COLUMNS), 1e-6, transposed=True, source="DeepSeek-V4 inference code, TileKernels"
    ),
    "liger": SinkhornRecipe("softmax", (ROWS, COLUMNS), 1e-6, source="Liger-Kernel 0.8.5, liger_mhc_coeffs"),
    "megatron": SinkhornRecipe("exp", (ROWS, COLUMNS), 1e-6, "clamp", source="Megatron-LM, HyperConnectionModule"),
    "transformer-engine": SinkhornRecipe(
        "log", (ROWS, COLUMNS), transposed=True, source="TransformerEngine 2.20, mhc_fused_sinkhorn"
    ),
    "lucidrains": SinkhornRecipe(
        "exp", (COLUMNS, ROWS), 1e-12, "clamp", transposed=True, source="hyper-connections 0.4.11"
    ),
}


def sinkhorn(logits: Tensor, rounds: int, recipe: str) -> Tensor:
    """(..., n, n) -> (..., n, n); a matrix with a non-finite logit becomes NaN."""
    R, finite = _finite(logits)
    return torch.where(finite, _iterates(R, rounds, RECIPES[recipe])[-1], torch.nan).to(logits.dtype)


def sinkhorn_backward(grad: Tensor, logits: Tensor, rounds: int, recipe: str) -> Tensor:
    """The exact gradient of the truncated map: rounds recomputed, then traversed in reverse."""
    rule = RECIPES[recipe]
    R, finite = _finite(logits)
    iterates = _iterates(R, rounds, rule)
    G = grad.to(R.dtype)
    # M' = M / s:  dL/dM = (G - sum G o M') / s, and G / s where s was clamped.
    for axis, before, after in reversed(list(zip(rule.schedule(rounds), iterates, iterates[1:]))):
        total = before.sum(axis, keepdim=True)
        pull = (G * after).sum(axis, keepdim=True)
        if rule.guard == "clamp":
            pull = torch.where(total < rule.eps, 0, pull)
        G = (G - pull) / _guarded(total, rule)
    return torch.where(finite, _start_backward(G, R, rule), torch.nan).to(logits.dtype)


def _finite(logits: Tensor) -> tuple[Tensor, Tensor]:
    R = logits.to(torch.promote_types(logits.dtype, torch.float32))
    finite = R.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(finite, R, 0), finite


def _iterates(R: Tensor, rounds: int, rule: SinkhornRecipe) -> list[Tensor]:
    iterates = [_start(R, rule)]
    for axis in rule.schedule(rounds):
        M = iterates[-1]
        iterates.append(M / _guarded(M.sum(axis, keepdim=True), rule))
    return iterates


def _guarded(total: Tensor, rule: SinkhornRecipe) -> Tensor:
    return total + rule.eps if rule.guard == "add" else total.clamp(min=rule.eps)


def _start(R: Tensor, rule: SinkhornRecipe) -> Tensor:
    first, second = rule.axes
    match rule.start:
        case "softmax":
            return torch.softmax(R, first) + rule.eps
        case "exp":
            return torch.exp(R - R.amax(first, keepdim=True))
        case "log":
            return torch.softmax(torch.log_softmax(R, first), second)


def _start_backward(G: Tensor, R: Tensor, rule: SinkhornRecipe) -> Tensor:
    first, second = rule.axes
    match rule.start:
        case "softmax":
            return _softmax_backward(G, torch.softmax(R, first), first)
        case "exp":  # the maximum cancels in the division that follows it, so it counts as a constant
            return G * _start(R, rule)
        case "log":
            G = _softmax_backward(G, _start(R, rule), second)
            return G - torch.softmax(R, first) * G.sum(first, keepdim=True)


def _softmax_backward(G: Tensor, P: Tensor, axis: int) -> Tensor:
    return P * (G - (G * P).sum(axis, keepdim=True))
