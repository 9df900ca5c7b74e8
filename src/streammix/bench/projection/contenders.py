"""What the projection is measured against: logits (..., n, n) -> matrices, as people write them in PyTorch."""

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from streammix import backend, backends, birkhoff, sinkhorn

ROUNDS, EPS = 20, 1e-6

Map = Callable[[Tensor], Tensor]


def plain_sinkhorn(logits: Tensor) -> Tensor:
    """DeepSeek-V4's 20 rounds, as its formulas read; gradients by autograd."""
    K = logits.softmax(-1) + EPS
    K = K / (K.sum(-2, keepdim=True) + EPS)
    for _ in range(ROUNDS - 1):
        K = K / (K.sum(-1, keepdim=True) + EPS)
        K = K / (K.sum(-2, keepdim=True) + EPS)
    return K


def permutation_mixture(n: int) -> Map:
    """mHC-lite's map (arXiv 2601.05732): a softmax over all n! permutations; takes (..., n!) logits."""
    permutations = torch.stack([torch.eye(n)[list(p)] for p in itertools.permutations(range(n))]).flatten(1)
    return lambda logits: (logits.softmax(-1) @ permutations).unflatten(-1, (n, n))


def contenders(n: int, *, compile: bool) -> dict[str, Map]:
    """Name -> map. All take (..., n, n) logits but `permutations compiled`, which takes (..., n!)."""
    maps: dict[str, Map] = {"birkhoff": birkhoff}
    native = any(b.chosen and b.name != "eager" for b in backends())
    if native:
        maps["sinkhorn-20 native"] = partial(sinkhorn, rounds=ROUNDS, recipe="deepseek-v4")
        maps["birkhoff eager"] = in_backend("eager", birkhoff)
    maps["sinkhorn-20 eager"] = plain_sinkhorn
    if compile:
        maps["sinkhorn-20 compiled"] = torch.compile(plain_sinkhorn, dynamic=False)
        if n <= 5:
            maps["permutations compiled"] = torch.compile(permutation_mixture(n), dynamic=False)
    return maps


def in_backend(name: str, function: Map) -> Map:
    def call(logits: Tensor) -> Tensor:
        with backend(name):
            return function(logits)

    return call
