"""MUDDFormer: every block reads sums of all states between blocks, one for each of its inputs and one to add to."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from ...manifolds import Manifold
from ...recipes import Recipe, Wiring
from ..generators import Dense, Generator, Start, Static
from .base import Finish, Inputs, unmixed
from .branches import chosen_inputs
from .combine import check_output
from .gain import Gain
from .history import History, HistoryConnection, block_of, check_history, check_settings, weighted_sum

AFTER = 1e-3  # gains of the norms after sums in a new network


class DenseConnection(
    HistoryConnection,
    wiring=Wiring(
        "dense", logits=("dense", "static"), endings=("dense",), optional=("block", "inputs", "multiway", "norms")
    ),
):
    """A site of multiway dynamic dense connections (MUDDFormer, arXiv 2502.12170, Eq. 5-8).

    X_0 is the state before the first site and X_i that after block i, of b branches (attention and MLP). The first site
    of block i + 1 reads with weights of its own for each input and for the state that the block adds to:

        u_s = sum_j A[s, j] X_j,   r = sum_j A[k, j] X_j,   h = r + branch(u_0, ..., u_{k-1})

    The others of the block are plain residual connections, h + branch(h). A is made of X_i token by token, see Dense;
    the end is one more sum. A new network is the plain residual one. With static logits A is the bias alone: with
    multiway=False this is DenseFormer (arXiv 2402.02622).

    Args:
        branch: as DecoupledConnection's.
        streams: 1.
        recipe: of connection "dense". Its connection_options may give:
            block: b. 2 if left out.
            inputs: k in place of what the branch says, as DecoupledConnection's.
            multiway: False for one sum, as every input and to add to. True if left out.
            norms: True for the paper's PrePostDANorm (Eq. 10), for deep and narrow models: sources are normalised, each
            once, and every sum is normalised and added to X_i. Gains start at 1 and 1e-3, a at zero.
        activation: None.
        The others are Connection's.

    Attributes:
        block: b.
        sources: how many tensors the state before this site has.

    Call: site(state, *args, **kwargs) with a tuple of `sources` tensors (..., C) -> the state after it, or (that,
    *further outputs of the branch). `connect` returns a tuple of k inputs for k > 1.
    """

    unmapped = "the weights of dense connections, over states instead of streams, are not shown"

    def build(self, manifold: str | Manifold | None) -> None:
        options = self.recipe.connection_options
        check_settings(self.recipe, self.streams, self.activation)
        self.manifold = unmixed(manifold, self.recipe, self.streams)
        self.inputs = chosen_inputs(options.get("inputs"), self.site, self.branch)
        self.block = block_of(self.recipe, 2)
        multiway = options.get("multiway", True)
        if not isinstance(multiway, bool):
            raise ValueError(f"multiway: got {multiway!r}; accepted: True, False")
        norms = norms_of(self.recipe)
        before, place = divmod(self.site, self.block)
        self.opens, self.sources = place == 0, before + (1 if place == 0 else 2)
        self.ways = self.inputs + 1 if multiway else 1
        sums = self.opens and before > 0
        self.logits: nn.Module = weights_of(self.recipe, self.dim, self.sources, self.ways) if sums else nn.Identity()
        self.norm = Gain(self.dim, self.recipe.norm_eps, 1.0) if norms and self.opens else None
        self.after = Gain(self.dim, self.recipe.norm_eps, AFTER, self.ways) if norms and sums else None

    def weights(self, *state: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch ways sources"]:
        """A for the state before this site, in float32 at least.

        Raises:
            ValueError: this site makes no sums, or another state.
        """
        if not isinstance(self.logits, Generator):
            raise ValueError(
                f"site: number {self.site} reads the last state alone; accepted: the first of every block but block 0"
            )
        check_history(state, self.sources, self.dim, self.site)
        (A,) = self.logits(state[-1].unsqueeze(-2))
        return A.unflatten(-1, (self.ways, self.sources))

    def join(self, x: Tensor, *carried: Tensor) -> tuple[Inputs, Finish]:
        state = (x, *carried)
        check_history(state, self.sources, self.dim, self.site)
        before = state if self.opens else state[:-1]
        if self.norm is not None:
            before = (*state[:-1], self.norm(state[-1]))
        sums: list[Tensor] = [state[-1]]
        if isinstance(self.logits, Generator):
            sums = summed(self.weights(*state), before, state[-1], self.after)
        residual = sums[-1]
        inputs = tuple(sums[:-1]) or (residual,)

        def finish(y: Tensor) -> History:
            check_output(self.branch, y, x.shape[:-1], self.dim)
            return (*before, (residual + y).to(x.dtype))

        return inputs if len(inputs) > 1 else inputs[0], finish

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        raise TypeError("ending: that of dense connections depends on how many sites there are; use ending_here()")

    def ending_here(self) -> nn.Module:
        blocks = -(-(self.site + 1) // self.block)
        return Summed(self.recipe, self.dim, blocks + 1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, block={self.block}, sources={self.sources}, ways={self.ways}"


class Summed(nn.Module):
    """Ends a history by one more sum of it."""

    def __init__(self, recipe: Recipe, dim: int, sources: int) -> None:
        super().__init__()
        self.logits = weights_of(recipe, dim, sources, 1)
        norms = norms_of(recipe)
        self.norm = Gain(dim, recipe.norm_eps, 1.0) if norms else None
        self.after = Gain(dim, recipe.norm_eps, AFTER, 1) if norms else None

    def reset_parameters(self) -> None:
        for part in self.children():
            cast("Generator", part).reset_parameters()

    def forward(self, state: History) -> Float[Tensor, "*batch C"]:
        *before, last = state
        (A,) = self.logits(last.unsqueeze(-2))
        sources = (*before, last if self.norm is None else self.norm(last))
        (out,) = summed(A.unsqueeze(-2), sources, last, self.after)
        return out


def summed(
    A: Float[Tensor, "*batch ways sources"], sources: History, last: Float[Tensor, "*batch C"], after: Gain | None
) -> list[Float[Tensor, "*batch C"]]:
    """sum_j A[s, j] sources_j for every way s; with a norm after it, that and the last state added."""
    sums = [weighted_sum(a, sources, last.dtype) for a in A.unbind(-2)]
    return sums if after is None else [last + after(u, way) for way, u in enumerate(sums)]


def norms_of(recipe: Recipe) -> bool:
    norms = recipe.connection_options.get("norms", False)
    if not isinstance(norms, bool):
        raise ValueError(f"norms: got {norms!r}; accepted: True, False")
    return norms


def weights_of(recipe: Recipe, dim: int, sources: int, ways: int) -> Generator:
    """The generator of A, at the start: the last state alone; nothing where that is added, or with start "zero"."""
    last = float(recipe.start == "identity" and not norms_of(recipe))
    start = Start((*(0.0,) * (sources - 1), last) * ways, recipe.weight_std)
    if recipe.logits == "static":
        return Static((ways * sources,), start=start)
    return Dense(dim, sources, ways, recipe.norm_eps, start=start)
