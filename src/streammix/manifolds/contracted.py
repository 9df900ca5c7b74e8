import torch
from torch import Tensor

from .base import Guarantees, Manifold
from .birkhoff import Birkhoff
from .permutations import Permutations

_BY: dict[str, type[Birkhoff] | type[Permutations]] = {"birkhoff": Birkhoff, "permutations": Permutations}


class Contracted(Manifold):
    r"""The Birkhoff polytope, drawn towards its centre: :math:`\{\gamma P + (1-\gamma) J : P \in B_n\},\ J = 11^T/n`.

    (cmHC, OpenReview NH0KjaJepH.) Doubly stochastic, with every entry at least (1 - gamma) / n; what streams differ by
    shrinks to gamma of itself at least, and no site leaves its streams unmixed. The source contracts its shallow layers
    only. Its paper could not be read; the formula is that of MindFormers (`enable_cmhc` of its pynative
    HyperConnectionModule), where P is a mixture of all n! permutations, gamma is 0.8 in the one training log that was
    found and its first two layers are contracted.

    Args:
        streams: n >= 1.
        gamma: the share of P, 0 < gamma <= 1; 1 contracts nothing.
        by: how P is made, and of which logits: "birkhoff" (`Birkhoff`, n^2) or "permutations" (`Permutations`, n! up to
            n = 6), as MindFormers does.

    Raises:
        ValueError: gamma is outside of its range, or by is neither.
    """

    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True)

    def __init__(self, streams: int, *, gamma: float = 0.8, by: str = "birkhoff") -> None:
        super().__init__(streams)
        if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma <= 1:
            raise ValueError(f"gamma: got {gamma!r}; accepted: numbers above 0, up to 1")
        if by not in _BY:
            raise ValueError(f"by: got {by!r}; accepted: {', '.join(_BY)}")
        self.gamma, self.by = gamma, by
        self.whole = _BY[by](streams)
        self.num_logits = self.whole.num_logits

    def forward(self, logits: Tensor) -> Tensor:
        self._check(logits)
        P = self.whole(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        return self.gamma * P + (1 - self.gamma) / self.streams

    def identity_logits(self) -> Tensor:
        """Those of P near the identity, where H is gamma I + (1 - gamma) J."""
        return self.whole.identity_logits()

    def contains(self, H: Tensor, atol: float = 1e-5) -> Tensor:
        """Whether each matrix is doubly stochastic with no entry below (1 - gamma) / n, up to atol."""
        least = torch.where(H.isfinite(), H, 0).double().amin((-1, -2))
        return super().contains(H, atol) & (least >= (1 - self.gamma) / self.streams - atol)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gamma={self.gamma}, by={self.by!r}"
