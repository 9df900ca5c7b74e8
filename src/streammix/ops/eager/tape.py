"""Reverse mode by hand over numbers that are tensors, for plain backward kernels: autograd does not record inside an
operator. What it makes is made of tensors, so that autograd can go through it outside of one."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_order = itertools.count()


class Number:
    """A tensor, and for each number that it was made of, what its gradient adds to theirs."""

    __slots__ = ("made", "of", "value")

    def __init__(self, value: Tensor, *of: tuple["Number", Callable[[Tensor], Tensor]]) -> None:
        self.value, self.of, self.made = value, of, next(_order)

    def __add__(self, other: "Number") -> "Number":
        return Number(self.value + other.value, (self, _same), (other, _same))

    def __sub__(self, other: "Number") -> "Number":
        return Number(self.value - other.value, (self, _same), (other, torch.neg))

    def __mul__(self, other: "Number") -> "Number":
        return Number(self.value * other.value, (self, lambda g: g * other.value), (other, lambda g: g * self.value))

    def per(self, other: "Number", factor: float, more: float) -> "Number":
        """factor self / (other + more)."""
        scale = factor / (other.value + more)
        made = self.value * scale
        return Number(made, (self, lambda g: g * scale), (other, lambda g: -g * made / (other.value + more)))

    def sigmoid(self) -> "Number":
        share = self.value.sigmoid()
        return Number(share, (self, lambda g: g * share * (-self.value).sigmoid()))

    def positive(self) -> "Number":
        """Zero where it is negative, and there without a gradient."""
        kept = (self.value >= 0).to(self.value.dtype)
        return Number(self.value.clamp(min=0), (self, lambda g: g * kept))


def _same(g: Tensor) -> Tensor:
    return g


def maximum(a: Number, b: Number) -> Number:
    """Of numbers that tie, each has half of the gradient."""
    first, second = _shares(a.value, b.value)
    return Number(torch.maximum(a.value, b.value), (a, lambda g: g * first), (b, lambda g: g * second))


def minimum(a: Number, b: Number) -> Number:
    """As maximum."""
    first, second = _shares(b.value, a.value)
    return Number(torch.minimum(a.value, b.value), (a, lambda g: g * first), (b, lambda g: g * second))


def _shares(more: Tensor, less: Tensor) -> tuple[Tensor, Tensor]:
    first = ((more > less).to(more.dtype) + (more >= less).to(more.dtype)) / 2
    return first, 1 - first


def gradients(of: Sequence[Number], grads: Sequence[Tensor], to: Sequence[Number]) -> list[Tensor]:
    """Those of the numbers `to`, from those of the numbers `of`, which were made after them."""
    found: dict[int, tuple[Number, Tensor]] = {}

    def add(number: Number, g: Tensor) -> None:
        before = found.get(number.made)
        found[number.made] = number, g if before is None else before[1] + g

    for number, g in zip(of, grads):
        add(number, g)
    first = min(number.made for number in to)
    last = max(found)
    for made in range(last, first, -1):
        if known := found.get(made):
            number, g = known
            for one, passed in number.of:
                add(one, passed(g))
    return [found[n.made][1] if n.made in found else torch.zeros_like(n.value) for n in to]
