"""Truncated Sinkhorn-Knopp in plain PyTorch, by the rules in ../sinkhorn_rules.py."""

import torch
from torch import Tensor

from ..sinkhorn_rules import SinkhornRecipe, from_numbers


def sinkhorn(logits: Tensor, rounds: int, start: int, columns_last: bool, eps: float) -> Tensor:
    """(..., n, n) -> (..., n, n); a matrix with a non-finite logit becomes NaN."""
    R, finite = _finite(logits)
    return torch.where(finite, _iterates(R, rounds, from_numbers(start, columns_last, eps))[-1], torch.nan).to(
        logits.dtype
    )


def sinkhorn_backward(
    grad: Tensor,
    logits: Tensor,
    rounds: int,
    start: int,
    columns_last: bool,
    eps: float,
    *,
    differentiable: bool = False,
) -> Tensor:
    """The exact gradient of the truncated map: rounds recomputed, then traversed in reverse.

    By the adjoint A of log M. That of M itself is divided by eps with every clamped sum, and overflows.

        M' = M / g(s), s the sums along an axis:   A -= M' o (sum A),  and nothing where s is clamped

    differentiable: whether autograd is to go through the iterates.
    """
    rule = from_numbers(start, columns_last, eps)
    R, finite = _finite(logits)
    iterates = _iterates(R, rounds, rule)
    if differentiable:
        iterates = _by_logarithms(iterates, R, rounds, rule)
    A = grad.to(R.dtype) * iterates[-1]
    for axis, before, after in reversed(list(zip(rule.schedule(rounds), iterates, iterates[1:]))):
        pull = A.sum(axis, keepdim=True)
        if rule.guard == "clamp":
            pull = torch.where(before.sum(axis, keepdim=True) < rule.eps, 0, pull)
        A = A - after * pull
    return torch.where(finite, _start_backward(A, R, iterates[0], rule), torch.nan).to(logits.dtype)


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


def _by_logarithms(iterates: list[Tensor], R: Tensor, rounds: int, rule: SinkhornRecipe) -> list[Tensor]:
    """The same numbers M, written M e^L with an L of value 0 and the derivatives of log M: autograd through the
    divisions themselves overflows."""
    L = _log_start(R, iterates[0].detach(), rule)
    result = [iterates[0].detach() * L.exp()]
    for axis, M in zip(rule.schedule(rounds), iterates[1:]):
        L = L - _zero(_guarded(result[-1].sum(axis, keepdim=True), rule).log())
        result.append(M.detach() * L.exp())
    return result


def _log_start(R: Tensor, M: Tensor, rule: SinkhornRecipe) -> Tensor:
    """0 with the derivatives of the logarithm of the start, whose value is M."""
    first, second = rule.axes
    match rule.start:
        case "softmax":
            return _zero(torch.logaddexp(torch.log_softmax(R, first), R.new_tensor(rule.eps).log()))
        case "exp":
            return _zero(R)  # the maximum cancels in the first division, whose sum is 1 or more
        case "log":
            L = _zero(torch.log_softmax(R, first))
            return L - _zero((M * L.exp()).sum(second, keepdim=True).log())


def _zero(x: Tensor) -> Tensor:
    """0 with the derivatives of x."""
    return x - x.detach()


def _guarded(total: Tensor, rule: SinkhornRecipe) -> Tensor:
    if rule.guard is None:
        return total
    return total + rule.eps if rule.guard == "add" else total.clamp(min=rule.eps)


def _start(R: Tensor, rule: SinkhornRecipe) -> Tensor:
    first, second = rule.axes
    match rule.start:
        case "softmax":
            return torch.softmax(R, first) + rule.eps
        case "exp":
            return torch.exp(R - R.amax(first, keepdim=True))
        case "log":
            # softmax(log_softmax(R, first), second), whose logarithms would be lost in large logits. Halves cannot
            # overflow.
            half = R / 2 - R.amax(first, keepdim=True) / 2
            sums = (2 * half).exp().sum(first, keepdim=True)
            M = (2 * (half - half.amax(second, keepdim=True))).exp() / sums
            return M / M.sum(second, keepdim=True)


def _start_backward(A: Tensor, R: Tensor, M: Tensor, rule: SinkhornRecipe) -> Tensor:
    """From the adjoint of the logarithm of the start M to that of the logits."""
    first, second = rule.axes
    match rule.start:
        case "softmax":
            P = torch.softmax(R, first)
            A = A * (P / (P + rule.eps))
            return A - P * A.sum(first, keepdim=True)
        case "exp":  # the maximum counts as a constant: see _log_start
            return A
        case "log":
            A = A - M * A.sum(second, keepdim=True)
            return A - torch.softmax(R, first) * A.sum(first, keepdim=True)
