from torch import Tensor

from ..functional import sinkhorn
from ..ops.eager.sinkhorn import COLUMNS, RECIPES, ROWS
from .base import Guarantees, Manifold, near_identity_square


class Sinkhorn(Manifold):
    r"""Nearly doubly stochastic matrices: Sinkhorn-Knopp cut off after a few rounds (arXiv 2512.24880, Eq. 9).

    n^2 logits, row-major, in the source's orientation; the matrix is transposed where the source applies H' x, so that
    it mixes by out_i = sum_j H_ij x_j here. Only the axis normalised last sums to one, and only in recipes without an
    eps; the other is off by percents for logits of size 10.

    Args:
        streams: n >= 1.
        rounds: number of rounds, 20 in every publication.
        recipe: whose implementation; see `streammix.sinkhorn`.
    """

    def __init__(self, streams: int, *, rounds: int = 20, recipe: str = "mhc") -> None:
        super().__init__(streams)
        if recipe not in RECIPES:
            raise ValueError(f"recipe: no Sinkhorn recipe is called {recipe!r}; accepted: {', '.join(RECIPES)}")
        self.num_logits = streams**2
        self.rounds = rounds
        self.recipe = recipe
        rule = RECIPES[recipe]
        self.transposed = rule.transposed
        exact = {ROWS: COLUMNS, COLUMNS: ROWS}[rule.axes[-1]] if rule.transposed else rule.axes[-1]
        sums_to_one = rule.eps == 0
        self.guarantees = Guarantees(
            rows=sums_to_one and exact == ROWS, columns=sums_to_one and exact == COLUMNS, nonnegative=True
        )

    def forward(self, logits: Tensor) -> Tensor:
        H = sinkhorn(self._square(logits), rounds=self.rounds, recipe=self.recipe)
        return H.mT if self.transposed else H

    def identity_logits(self) -> Tensor:
        return near_identity_square(self.streams)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rounds={self.rounds}, recipe={self.recipe!r}"
