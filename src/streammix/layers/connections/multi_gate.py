"""Multi-Gate Residuals: streams that are pooled by attention, and moved towards a branch's output by gates."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ... import functional
from ..._checks import check_integer, check_name
from ..._parameters import assign, assign_normal, parameter_dtype
from ...manifolds import Manifold
from ...manifolds.base import Guarantees
from ...recipes import Recipe, Wiring
from ..generators import Generator, Query, Start
from ..generators.flattened import eps_of_norm
from ..generators.per_stream_rms import rows_projected
from .base import Connection, State, unmixed
from .combine import check_output, diagonal
from .hyper import check_width

REFERENCE_SITES, REFERENCE_BIAS = 21, -3.0  # the paper's 21 sites with gates, at a bias of -3


class MultiGateConnection(
    Connection,
    wiring=Wiring("multi-gate", logits=("query",), endings=("pooled",), optional=("gate", "depth"), authors_start=True),
):
    """A site that pools its streams by attention and moves each towards the branch's output (Multi-Gate Residuals,
    arXiv 2605.23259).

        z_i = w . s_i / (rms(s_i) sqrt(C)),   u = sum_i softmax_i(z_i) s_i,   y = branch(u),
        out_i = (1 - post_i) s_i + post_i y,   post_i = sigmoid(z'_i + b_i)

    z' has a vector w' of its own. The state starts as stream 0; the first n - 1 sites put their outputs in streams 1 to
    n - 1 as they are, which is what makes streams distinct. Streams not begun yet are zero, and not read. All vectors
    start at zero. Every stream is a convex combination of branch outputs and the first state: none outgrows them.

    Args:
        streams: n.
        recipe: of connection "multi-gate", whose manifold is "identity". Its connection_options may give:
            gate: "independent", as above, or "competitive": post_i = e^{z'_i} / (e^b + sum_j e^{z'_j}). The former if
            left out.
            depth: how many sites there are. Gates start at post = 1 / (sqrt((depth - n + 1) / 21) (e^3 + 1)), and
            without it at 1 / (e^3 + 1) = 0.047, as for the paper's depth.
        The others are Connection's.

    Call: site(x, *args, **kwargs) with x (..., n, C) -> the same shape.
    """

    def build(self, manifold: str | Manifold | None) -> None:
        n = self.streams
        self.manifold = unmixed(manifold, self.recipe, n)
        self.begun = min(self.site + 1, n)
        self.accumulates = self.site + 1 < n
        self.logits: nn.Module = query(self.recipe, self.dim) if self.begun > 1 else nn.Identity()
        self.gates = None if self.accumulates else Gates(self.recipe, self.dim, n)

    @property
    def guarantees(self) -> Guarantees:
        """Of diag(1 - post)."""
        return Guarantees(nonnegative=True, nonexpansive=True)

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        check_width(x, self.dim)
        return torch.stack([x, *[torch.zeros_like(x)] * (self.streams - 1)], -2)

    def coefficients(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        """The attention's weights, the gates and diag(1 - post); while streams begin, a one for the next and the
        identity. In float32 at least."""
        self.check(x)
        pooled = pool(self.logits, x, self.begun)
        pre = F.pad(pooled, (0, self.streams - self.begun))
        if self.gates is None:
            one = torch.ones_like(pooled[..., :1])
            post = F.pad(one, (self.begun, self.streams - self.begun - 1))
            return pre, post, self.manifold(post[..., :0])
        post = self.gates(x)
        return pre, post, diagonal(1 - post)

    def write(
        self,
        x: Float[Tensor, "*batch n C"],
        y: Float[Tensor, "*batch C"],
        post: Float[Tensor, "*batch n"],
        res: Float[Tensor, "*batch n n"],
    ) -> Float[Tensor, "*batch n C"]:
        check_output(self.branch, y, x.shape[:-2], self.dim)
        return super().write(x, y, post, res)

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return Pooled(recipe, dim, streams)

    def ending_here(self) -> nn.Module:
        return Pooled(self.recipe, self.dim, min(self.site + 2, self.streams))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, begun={self.begun}"


class Gates(Generator):
    """How far each stream moves towards the branch's output.

    Parameters:
        weight (C): w'; bias (n), one for every stream, or (1), the score of forgetting nothing, if competitive.
    """

    def __init__(self, recipe: Recipe, dim: int, streams: int) -> None:
        super().__init__()
        gate = recipe.connection_options.get("gate", "independent")
        check_name("gate", gate, ("independent", "competitive"))
        self.competitive, self.norm_eps = gate == "competitive", recipe.norm_eps
        dtype = parameter_dtype()
        self.weight = nn.Parameter(torch.empty(dim, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(1 if self.competitive else streams, dtype=dtype))
        self.start = Start((first_bias(recipe, streams, self.competitive),) * len(self.bias), recipe.weight_std)
        self.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n"]:  # type: ignore[override]
        dtype = torch.promote_types(self.weight.dtype, x.dtype)
        scores = rows_projected(x, self.weight.unsqueeze(0), eps_of_norm(self.norm_eps, dtype)).squeeze(-1)
        scores, bias = scores * x.shape[-1] ** -0.5, self.bias.to(scores.dtype)
        if not self.competitive:
            return (scores + bias).sigmoid()
        return torch.cat([bias.expand(*scores.shape[:-1], 1), scores], -1).softmax(-1)[..., 1:]

    def reset_parameters(self) -> None:
        assign_normal(self.weight, self.start.weight_std)
        assign(self.bias, self.start.bias)


def first_bias(recipe: Recipe, streams: int, competitive: bool) -> float:
    """The gates' bias at which post = 1 / t, t = sqrt(L / 21) (e^3 + 1), for scores of zero and L sites with gates:
    ln(t - n) if competitive (Eq. 14), else -ln(t - 1); zero with start "zero"."""
    depth = recipe.connection_options.get("depth")
    gated = REFERENCE_SITES
    if depth is not None:
        check_integer("depth", depth, 1)
        gated = max(depth - streams + 1, 0)
    t = math.sqrt(gated / REFERENCE_SITES) * (math.exp(-REFERENCE_BIAS) + 1)
    others = streams if competitive else 1
    if recipe.start == "zero":
        return 0.0
    if t <= others:
        raise ValueError(
            f"depth: got {depth} for {streams} streams, too few sites for gates that start at 1 / {t:.3g}; accepted:"
            " None, or more"
        )
    return math.log(t - others) if competitive else -math.log(t - others)


class Pooled(nn.Module):
    """Ends streams by attention over those that have begun."""

    def __init__(self, recipe: Recipe, dim: int, begun: int) -> None:
        super().__init__()
        self.begun = begun
        self.logits: nn.Module = query(recipe, dim) if begun > 1 else nn.Identity()

    def reset_parameters(self) -> None:
        if isinstance(self.logits, Generator):
            self.logits.reset_parameters()

    def forward(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch C"]:
        weights = pool(self.logits, x, self.begun)
        return functional.read(x, F.pad(weights, (0, x.shape[-2] - self.begun)))


def query(recipe: Recipe, dim: int) -> Query:
    return Query(dim, recipe.norm_eps, dim**-0.5, start=Start((), recipe.weight_std))


def pool(logits: nn.Module, x: Float[Tensor, "*batch n C"], begun: int) -> Float[Tensor, "*batch begun"]:
    """The attention's weights of the first streams."""
    if begun == 1:
        return torch.ones_like(x[..., :1, 0], dtype=torch.promote_types(x.dtype, torch.float32))
    scores: Tensor = logits(x)
    return scores[..., :begun].softmax(-1)
