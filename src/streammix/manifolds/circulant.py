import torch
from torch import Tensor

from .base import OFF_DIAGONAL, Guarantees, Manifold


class Circulant(Manifold):
    r"""Mixtures of the cyclic shifts :math:`\{\sum_k c_k \Pi^k : c \in \Delta\},\ \Pi_{ij} = 1 \iff j \equiv i + 1`.

        plain: c = softmax(logits)        leaky: c = (1 - gamma) e_0 + gamma softmax(logits),   gamma = beta / (2 sites)

    (C-mHC: the paper and code of contactsebi/circulant-hyper-connections; not on arXiv.) n logits. Doubly stochastic to
    rounding; all members commute. Leaky ones have ||H - I||_2 <= 2 gamma, so that over all sites no difference between
    streams shrinks below (1 - beta / sites)^sites of itself, about e^-beta.

    The source starts at zero logits: J = 11'/n if plain, (1 - gamma) I + gamma J if leaky. `identity_logits` is 0
    for the identity and -8 for every other shift.

    Args:
        streams: n >= 1.
        sites: number of sites of the network, > beta / 2, for the leaky form; None for the plain one.
        beta: 4 in the source.

    Raises:
        ValueError: beta is not positive or sites is not above beta / 2.
    """

    guarantees = Guarantees(rows=True, columns=True, nonnegative=True, nonexpansive=True)

    def __init__(self, streams: int, *, sites: int | None = None, beta: float = 4.0) -> None:
        super().__init__(streams)
        if not beta > 0:
            raise ValueError(f"beta: got {beta}; accepted: positive numbers")
        if sites is not None and not sites > beta / 2:
            raise ValueError(f"sites: got {sites}; accepted: None or numbers above beta / 2 = {beta / 2}")
        self.num_logits = streams
        self.leak = 1.0 if sites is None else beta / (2 * sites)

    def forward(self, logits: Tensor) -> Tensor:
        shares = self.leak * self._wide(logits).softmax(-1)
        i = torch.arange(self.streams, device=logits.device)
        H = shares[..., (i - i.unsqueeze(-1)) % self.streams]
        return H + (1 - self.leak) * torch.eye(self.streams, dtype=H.dtype, device=H.device)

    def identity_logits(self) -> Tensor:
        logits = torch.full((self.streams,), OFF_DIAGONAL)
        logits[0] = 0
        return logits

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, leak={self.leak:.4g}"
