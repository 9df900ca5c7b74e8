import itertools
import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import is_integer
from .._parameters import parameter_dtype
from .._precision import product
from .base import OFF_DIAGONAL, Guarantees, Manifold
from .constant import Constant

ALL_UP_TO = 6  # streams up to which all n! permutations are taken: 720


class Permutations(Manifold):
    r"""Mixtures of permutations :math:`\{\sum_k a_k P_k : a = \mathrm{softmax}(\ell)\}` (mHC-lite, arXiv 2601.05732).

    Doubly stochastic to rounding for any logits. With all n! permutations the set is the whole Birkhoff polytope, with
    n! - 1 coordinates for its (n - 1)^2 dimensions; with a subset it is their convex hull. One logit a permutation, in
    the order of itertools.permutations; P_k[i, perm[i]] = 1.

    The source gives no rule for large n: beyond 6 streams the identity and a seeded sample of others are taken. It
    starts with logits 0 for the identity and -8 for each other; as that would lose the identity among hundreds, they
    start lower when there are more than 24, so that the identity keeps its weight of 0.992.

    Args:
        streams: n >= 1.
        count: how many permutations, drawn at random, the identity first. Default: all n! up to n = 6, else 2 n^2.
        seed: of the draw.
        subset: the permutations themselves, instead of count; the identity among them.

    Raises:
        ValueError: count is not in 1 ... n!, or subset is not made of distinct permutations of 0 ... n - 1 that include
            the identity, or both are given.
    """

    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True)

    def __init__(
        self,
        streams: int,
        *,
        count: int | None = None,
        seed: int = 0,
        subset: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(streams)
        if subset is None:
            self.permutations = _draw(streams, count, seed)
        elif count is None:
            self.permutations = _checked(streams, subset)
        else:
            raise ValueError(f"count: got {count} beside a subset; accepted: one of the two")
        self.num_logits = len(self.permutations)
        rows = torch.tensor(self.permutations, device="cpu")
        self.matrices = Constant(torch.nn.functional.one_hot(rows, streams).flatten(1).to(parameter_dtype()))

    def forward(self, logits: Tensor) -> Tensor:
        a = self._wide(logits).softmax(-1)
        return product(a, self.matrices.on(a.device)).unflatten(-1, (self.streams, self.streams))

    def identity_logits(self) -> Tensor:
        others = OFF_DIAGONAL - math.log(max(self.num_logits - 1, 23) / 23)
        logits = torch.full((self.num_logits,), others)
        logits[self.permutations.index(tuple(range(self.streams)))] = 0
        return logits

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, permutations={self.num_logits}"


def _draw(n: int, count: int | None, seed: int) -> list[tuple[int, ...]]:
    if count is None:
        if n <= ALL_UP_TO:
            return list(itertools.permutations(range(n)))
        count = 2 * n**2
    if not is_integer(count, 1, math.factorial(n)):
        raise ValueError(f"count: got {count!r}; accepted: None or 1 ... {n}! = {math.factorial(n)}")
    rng, drawn = random.Random(seed), {tuple(range(n)): None}
    while len(drawn) < count:
        drawn[tuple(rng.sample(range(n), n))] = None
    return list(drawn)


def _checked(n: int, subset: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    permutations = [tuple(int(j) for j in p) for p in subset]
    identity = tuple(range(n))
    wrong = [p for p in permutations if tuple(sorted(p)) != identity]
    if wrong:
        raise ValueError(f"subset: got {wrong[0]}; accepted: permutations of 0 ... {n - 1}")
    if identity not in permutations or len(set(permutations)) < len(permutations):
        raise ValueError(f"subset: got {permutations}; accepted: distinct permutations, the identity among them")
    return permutations
