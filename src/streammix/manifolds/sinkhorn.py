from torch import Tensor

from ..functional import sinkhorn
from ..ops.sinkhorn_rules import COLUMNS, ROWS, rule_of
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
        eps: what is added to sums, or what they are clamped to; None: the recipe's own. With 0, the axis normalised
            last sums to one.

    Attributes:
        has_eps: whether the rule has an eps.

    Raises:
        ValueError: an unknown recipe, or an eps that it does not take.
    """

    takes_sharded = True
    entrywise = True

    def __init__(self, streams: int, *, rounds: int = 20, recipe: str = "mhc", eps: float | None = None) -> None:
        super().__init__(streams)
        rule = rule_of(recipe, eps)
        self.num_logits = streams**2
        self.rounds = rounds
        self.recipe = recipe
        self.eps = eps
        self.transposed = rule.transposed
        self.has_eps = rule.guard is not None
        exact = {ROWS: COLUMNS, COLUMNS: ROWS}[rule.axes[-1]] if rule.transposed else rule.axes[-1]
        sums_to_one = rule.eps == 0
        self.guarantees = Guarantees(
            rows=sums_to_one and exact == ROWS, columns=sums_to_one and exact == COLUMNS, nonnegative=True
        )

    @property
    def mixing_rule(self) -> tuple[int, int, bool, bool, float] | None:  # type: ignore[override]
        if type(self).forward is not Sinkhorn.forward:  # a subclass may map otherwise
            return None
        start, columns_last, eps = rule_of(self.recipe, self.eps).numbers
        return self.rounds, start, columns_last, self.transposed, eps

    def forward(self, logits: Tensor) -> Tensor:
        H = sinkhorn(self._square(logits), rounds=self.rounds, recipe=self.recipe, eps=self.eps)
        return H.mT if self.transposed else H

    def identity_logits(self) -> Tensor:
        return near_identity_square(self.streams)

    def extra_repr(self) -> str:
        eps = "" if self.eps is None else f", eps={self.eps}"
        return f"{super().extra_repr()}, rounds={self.rounds}, recipe={self.recipe!r}{eps}"
