"""Equilibrium updates: writes that tell the mean of the streams from the differences between them."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...manifolds import Manifold
from ...manifolds.constant import Constant
from ...manifolds.rotations import helmert
from ...ops import ACTIVATION_CODES, sharding
from ...recipes import Wiring
from ..activations import read_weights
from ..generators import Start
from .hyper import HyperConnection


class EquilibriumConnection(
    HyperConnection,
    wiring=Wiring("equilibrium", logits=("static", "flattened"), endings=("sum", "mean", "head"), anneals=True),
):
    """A site whose write weights are made with its mixing matrix P = H_res (eHC, OpenReview RBTdbBBvdL).

        post = g 1 + (I - P) q,   g = write(l_1),   q = U (l_2 ... l_n),
        out_i = sum_j P[i, j] x_j + post_i y,   that is   out - q y = P (x - q y) + g y 1

    The gain g is shared by the streams; q sums to zero, U (n, n - 1) being an orthonormal basis of such vectors. If the
    columns of P sum to one, the streams' mean grows by g y and by nothing else, while the differences between them
    relax towards those of the target q y, at the rate that P sets. Where P has positive entries and g is linear, the n
    write logits l are one to one with write weights of any sign.

    Arguments are HyperConnection's; recipes of connection "equilibrium", whose `write` is the activation of g.
    """

    def build(self, manifold: str | Manifold | None) -> None:
        super().build(manifold)
        read, _, read_eps, *_ = self.weights_settings
        self.weights_settings = (read, ACTIVATION_CODES["linear"], read_eps, 1.0, 0.0)
        self.basis = Constant(helmert(self.streams, torch.zeros((), dtype=torch.float64, device="cpu")))

    def start(self) -> Start:
        """As mHC's for the gain, and zero for q."""
        n, start = self.streams, super().start()
        return replace(start, bias=(*start.bias[: n + 1], *[0.0] * (n - 1), *start.bias[2 * n :]))

    def coefficients(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        self.check(x)
        pre, write, mix = self.logits(x)
        res = self.manifold(mix)
        return read_weights(self.recipe, pre), self.posts(write, res), res

    def posts(self, made: Float[Tensor, "*batch n"], res: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n"]:
        q = sharding.by_tokens(self.zero_mean, made) if sharding.is_sharded(made) else self.zero_mean(made)
        return self.write_weights(made[..., :1]) + q - (res * q.unsqueeze(-2)).sum(-1)

    def zero_mean(self, made: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """q. A sum of products and no matrix product, which autocast would round."""
        return (made[..., None, 1:] * self.basis.on(made.device).to(made.dtype)).sum(-1)

    @property
    def fuses(self) -> bool:
        return self._unwatched(EquilibriumConnection)
