"""A read for each input of a branch: queries, keys and values from sums of their own."""

import torch
from jaxtyping import Float
from torch import Tensor

from ... import functional
from ...manifolds import Manifold
from ...recipes import Wiring
from .. import generators, initialisation
from ..activations import read_weights, write_weights
from ..generators import Generator, Start, Static
from .base import Finish, Inputs, manifold_of
from .branches import chosen_inputs
from .hyper import HyperConnection


class DecoupledConnection(
    HyperConnection,
    wiring=Wiring(
        "decoupled",
        logits=("static", "flattened"),
        endings=("sum", "mean", "head"),
        optional=("inputs", "static_reads"),
    ),
):
    """A site that reads k weighted sums of the streams, one for each input of its branch (Decoupled Semantic Routing,
    OpenReview ItHTmPjvIb), and is a HyperConnection otherwise:

        u_s = sum_j pre[s, j] x_j,   y = branch(u_0, ..., u_{k-1}),   out_i = sum_j H_res[i, j] x_j + post_i y

    All k reads start alike, as a HyperConnection's; their inputs' own weights tell them apart. With k = 1 it is a
    HyperConnection to the bit.

    Args:
        branch: takes k tensors first, and says so by its attribute `branch_inputs`; 1 if it has none.
        recipe: of connection "decoupled". Its connection_options may give:
            inputs: k in place of what the branch says, where that is a function, say; several numbers are those of site
            0, 1, ..., repeated along the sites.
            static_reads: True for reads that do not depend on the state. False if left out.
        The others are HyperConnection's.

    Raises: see Connection. ValueError for `inputs` that are no numbers, or not the branch's.

    Call: site(x, *args, **kwargs) with x (..., n, C) -> the same shape. For k > 1 `connect` returns k inputs, a tuple.
    """

    def build(self, manifold: str | Manifold | None) -> None:
        options = self.recipe.connection_options
        self.inputs = chosen_inputs(options.get("inputs"), self.site, self.branch)
        self.reads: Generator | None = None
        static = options.get("static_reads", False)
        if not isinstance(static, bool):
            raise ValueError(f"static_reads: got {static!r}; accepted: True, False")
        if self.inputs == 1 and not static:
            super().build(manifold)
            return
        n = self.streams
        self.manifold = manifold_of(manifold, self.recipe, n)
        with torch.device("cpu"):
            start = initialisation.start(self.recipe, n, self.site, self.manifold.identity_logits(), n * self.dim)
        reads, others = start.bias[:n] * self.inputs, start.bias[n:]
        sizes = (n * self.inputs, n, self.manifold.num_logits)
        if static:
            self.reads = Static(sizes[:1], start=Start(reads))
            sizes, reads = (0, *sizes[1:]), ()
        start = Start((*reads, *others), start.weight_std, start.gate)
        self.logits = generators.make(self.recipe, self.dim, n, sizes, start)

    def coefficients(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        """pre (..., k, n), or (..., n) for k = 1, post and H_res for these streams, in float32 at least."""
        self.check(x)
        pre, post, res = self.logits(x)
        if self.reads is not None:
            (pre,) = self.reads(x)
        if self.inputs > 1:
            pre = pre.unflatten(-1, (self.inputs, self.streams))
        return read_weights(self.recipe, pre), write_weights(self.recipe, post), self.manifold(res)

    def join(self, x: Tensor, *carried: Tensor) -> tuple[Inputs, Finish]:  # type: ignore[override]
        if self.inputs == 1 and self.reads is None:
            return super().join(x)
        pre, post, res = self.coefficients(x)
        return self.read(x, pre), lambda y: self.write(x, y, post, res)

    def read(self, x: Float[Tensor, "*batch n C"], pre: Float[Tensor, "..."]) -> Inputs:
        """One input of the branch for weights (..., n), a tuple of k for (..., k, n)."""
        if pre.ndim < x.ndim:
            return functional.read(x, pre)
        return tuple(functional.read(x, weights) for weights in pre.unbind(-2))

    @property
    def rebuilds(self) -> bool:
        return False

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, inputs={self.inputs}"
