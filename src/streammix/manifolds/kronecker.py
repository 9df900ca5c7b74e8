import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from .._parameters import parameter_dtype
from .._precision import product
from .base import Guarantees, Manifold
from .birkhoff import Birkhoff
from .constant import Constant
from .orthostochastic import Orthostochastic
from .permutations import Permutations


class Kronecker(Manifold):
    r"""Kronecker products :math:`\{U^1 \otimes \dots \otimes U^K : U^k \in B_{i_k}\},\ n = i_1 \cdots i_K` (KromHC).

    arXiv 2601.21579. Doubly stochastic to rounding; a thin subset of the polytope: sum_k (i_k - 1)^2 dimensions. With
    2 x 2 factors only, every H is symmetric and all of them commute. The left factor has the slowest index, as in the
    source's code. Logits: those of the first factor, then of the second, ...; each factor starts as its own kind does.

    The source's code refuses n that are not powers of two although its theory does not; here any n >= 1 is taken.

    Args:
        streams: n >= 1.
        factors: i_1, ..., i_K, integers >= 2 with product n (none for n = 1). Default: the primes of n, ascending.
        by: how a factor is made: "permutations" (the source), "birkhoff" (exact projection), "orthostochastic" (go-mHC,
            s = 2), or "closed": U = [[p, 1 - p], [1 - p, p]], p = sigmoid(logit), which is all of B_2 from one logit.

    Raises:
        ValueError: factors do not multiply to n, by is none of these, or by is "closed" with a factor other than 2.
    """

    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True)

    def __init__(self, streams: int, *, factors: Sequence[int] | None = None, by: str = "permutations") -> None:
        super().__init__(streams)
        sizes = _primes(streams) if factors is None else tuple(factors)
        if any(isinstance(i, bool) or not isinstance(i, int) or i < 2 for i in sizes) or math.prod(sizes) != streams:
            raise ValueError(f"factors: got {sizes}; accepted: integers >= 2 whose product is streams = {streams}")
        if by not in _FACTORS:
            raise ValueError(f"by: got {by!r}; accepted: {', '.join(_FACTORS)}")
        if by == "closed" and any(i != 2 for i in sizes):
            raise ValueError(f"by: got 'closed' with factors {sizes}; the closed form accepts factors of 2 only")
        self.by = by
        parts: list[Manifold] = [_FACTORS[by](i) for i in sizes]
        self.factors = nn.ModuleList(parts)
        self.sizes = [factor.num_logits for factor in parts]
        self.num_logits = sum(self.sizes)
        self.products = _products(parts) if by == "permutations" and math.prod(self.sizes) <= MOST_PRODUCTS else None

    def forward(self, logits: Tensor) -> Tensor:
        logits = self._wide(logits)
        if self.products is not None:
            shares = [part.softmax(-1) for part in logits.split(self.sizes, -1)]
            return product(reduce(_outer, shares), self.products.on(logits.device)).unflatten(-1, (self.streams,) * 2)
        H = [factor(part) for factor, part in zip(self.factors, logits.split(self.sizes, -1))]
        return reduce(_kron, H, logits.new_ones(*logits.shape[:-1], 1, 1))

    def identity_logits(self) -> Tensor:
        starts = [factor.identity_logits() for factor in self.factors]  # type: ignore[operator]
        return torch.cat([torch.zeros(0), *starts])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, factors={tuple(f.streams for f in self.factors)}, by={self.by!r}"


class _TwoByTwo(Manifold):
    guarantees = Kronecker.guarantees
    num_logits = 1

    def forward(self, logits: Tensor) -> Tensor:
        logit = self._wide(logits).squeeze(-1)
        p, q = logit.sigmoid(), (-logit).sigmoid()
        return torch.stack([p, q, q, p], -1).unflatten(-1, (2, 2))

    def identity_logits(self) -> Tensor:
        return torch.tensor([8.0])


MOST_PRODUCTS = 256  # of permutations, for which a table of them takes the place of products of factors


def _products(factors: Sequence[Manifold]) -> Constant | None:
    """Kronecker products of the factors' permutations, one of each: as a mixture of those H is one product."""
    matrices = [
        torch.nn.functional.one_hot(torch.tensor(factor.permutations, device="cpu"), factor.streams).to(
            parameter_dtype()
        )
        for factor in factors
        if isinstance(factor, Permutations)
    ]
    if not matrices:
        return None
    return Constant(reduce(lambda A, B: _kron(A[:, None], B).flatten(0, 1), matrices).flatten(1))


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """(..., p), (..., q) -> (..., p q)."""
    return (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2)


_FACTORS: dict[str, Callable[[int], Manifold]] = {
    "permutations": Permutations,
    "birkhoff": Birkhoff,
    "orthostochastic": Orthostochastic,
    "closed": _TwoByTwo,
}


def _kron(A: Tensor, B: Tensor) -> Tensor:
    """Batched Kronecker product: (..., a, a), (..., b, b) -> (..., a b, a b)."""
    AB = A[..., :, None, :, None] * B[..., None, :, None, :]
    return AB.flatten(-4, -3).flatten(-2)


def _primes(n: int) -> tuple[int, ...]:
    if n == 1:
        return ()
    p = next(p for p in range(2, n + 1) if n % p == 0)
    return p, *_primes(n // p)
