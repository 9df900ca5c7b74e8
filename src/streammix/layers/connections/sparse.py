"""xHC: many streams, of which a site updates a few that a router picks, along the branch's recent outputs."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ... import ops
from ..._checks import check_integer
from ..._precision import computing_dtype, full_precision
from ...manifolds import Manifold
from ...recipes import Recipe, Wiring
from .. import initialisation
from ..activations import read_weights
from ..generators import Flattened, Generator, Start, Static, layer_norm_eps
from ..generators.flattened import one_pass
from ..streams import Collapse, expand
from .base import Connection, Finish, State, manifold_of
from .combine import check_output
from .hyper import check_width, watched
from .router import SCORE_LOGIT, Router
from .temporal import TemporalBasis

WRITE_SPREAD = 0.25  # by which one active stream is written more than the others in a new site, and another less


class SparseConnection(
    Connection,
    wiring=Wiring(
        "sparse",
        logits=("static", "flattened"),
        endings=("sum", "mean", "head"),
        optional=("active", "fixed", "temporal", "time_axis"),
        anneals=True,
        layer_norm=True,
    ),
):
    """A site on n streams that reads all of them and updates k (xHC, arXiv 2607.14530).

        u = sum_j pre_j x_j,   y = branch(u)                                    over all n streams
        p = sigmoid(LayerNorm(vec x) W + b),   active = the first `fixed` streams and the best k - fixed of the others
        x_active <- H_res x_active + p_active (post V)

    V holds y and, for each of the site's filters, a causal depthwise convolution of y over time, orthogonal to each
    other token by token (TemporalBasis). H_res (k, k) and post (k, 1 + filters) are made from the active streams alone,
    in the order of their index. Any manifold may hold H_res; if it is nonnegative without exact rows, rows that sum to
    more than one are scaled down to one, as in the paper.

    A new site whose recipe starts at the identity has pre = 1 / k throughout, H_res near the identity, and writes that
    sum to k over the active streams, however tokens are routed. Streams that began as k / n of a state then hold k
    times the plain residual network's state as their sum.

    Args:
        branch: maps (..., T, C) to (..., T, C).
        streams: n.
        recipe: of connection "sparse", with flattened or static logits. Static routing is the same for every token, and
            streams that no site chooses stay copies. Its connection_options may give:
            active: k, at most n. 4 if left out.
            fixed: how many streams are always active, at most k. 2 if left out.
            temporal: lengths of the causal filters of site 0, 1, ...; repeated along the sites. Left out: none for even
                sites (attention), 4, 8 and 12 tokens for odd ones (MLP).
            time_axis: the axis of the branch's output along which tokens follow each other; not the last. -2 if left
                out. Sites without filters do without it.
        The others are Connection's. Text that comes in parts, token by token in decoding say, must come within
        `streammix.layers.decoding(model)`, which keeps what the filters need of the past.

    Raises: see Connection. At the call: ValueError for no time axis where one is needed; RuntimeError for a single
        token outside of `decoding`, without gradient or in evaluation mode.

    Call: site(x, *args, **kwargs) with x (..., n, C) -> the same shape.
    """

    unmapped = "the maps of sparse connections, between streams that change by the token, are not shown"

    def build(self, manifold: str | Manifold | None) -> None:
        recipe, n = self.recipe, self.streams
        self.active = active_of(recipe)
        self.fixed = recipe.connection_options.get("fixed", 2)
        temporal = recipe.connection_options.get("temporal", ((), (4, 8, 12)))
        check_integer("active", self.active, 1)
        check_integer("fixed", self.fixed, 0)
        if not self.fixed <= self.active <= n:
            raise ValueError(
                f"active: got {self.active} with {self.fixed} fixed and {n} streams; accepted: fixed <= active <="
                " streams"
            )
        if not temporal:
            raise ValueError(
                "temporal: got no site; accepted: at least one site's filter lengths, which may be none: ((),)"
            )
        lengths, axis = temporal[self.site % len(temporal)], recipe.connection_options.get("time_axis", -2)
        self.basis = TemporalBasis(self.dim, lengths, axis)
        self.manifold = manifold_of(manifold, recipe, self.active)
        sizes = (self.active * self.basis.size, self.manifold.num_logits)
        reads, writes = self.starts()
        self.reads: Generator
        self.logits: Generator
        if recipe.logits == "flattened":
            frozen = recipe.gate if recipe.freeze_mix_gate else None
            self.reads = Flattened(self.dim, n, (n,), recipe.norm_eps, start=reads)
            self.logits = Flattened(self.dim, self.active, sizes, recipe.norm_eps, frozen_gate=frozen, start=writes)
        else:
            self.reads, self.logits = Static((n,), start=reads), Static(sizes, start=writes)
        self.router = Router(self.dim, n, layer_norm_eps(recipe), dynamic=recipe.logits == "flattened")

    def starts(self) -> tuple[Start, Start]:
        """Of the generator of read logits, and of that of write and mix logits."""
        recipe, k = self.recipe, self.active
        with torch.device("cpu"):
            reads, writes = torch.zeros(self.streams), torch.zeros(k, self.basis.size)
            mix = initialisation.mix_logits(recipe, self.manifold.identity_logits())
            if recipe.start == "identity":
                reads = initialisation.read_logits(recipe, torch.full((self.streams,), 1 / k))
                writes = initialisation.write_logits(recipe, self.first_write())
            if recipe.start == "zero":
                mix = torch.zeros_like(mix)
        biases = reads, torch.cat([writes.flatten(), mix])
        first, second = (Start.at(bias, recipe.weight_std, recipe.gate) for bias in biases)
        return first, second

    def first_write(self) -> Float[Tensor, "k basis"]:
        """Writes of y that sum to k once scaled by the scores; unequal, or the fixed streams would stay copies."""
        weights = torch.ones(self.active)
        weights[self.site % self.active] += WRITE_SPREAD
        weights[(self.site + 1) % self.active] -= WRITE_SPREAD
        score = torch.tensor(SCORE_LOGIT).sigmoid()
        return torch.cat([(weights / score).unsqueeze(-1), torch.ones(self.active, self.basis.size - 1)], -1)

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        """k / n of x in every stream."""
        check_width(x, self.dim)
        return expand(x, self.streams) * (self.active / self.streams)

    def join(self, x: Float[Tensor, "*batch n C"], *carried: Tensor) -> tuple[Float[Tensor, "*batch C"], Finish]:
        self.check(x)
        pre, index, scores = self.over_all(x)
        wide = computing_dtype(x.dtype)
        u, active = ops.sparse_read(x, pre.to(wide), index)
        post, res = self.active_coefficients(active)

        def finish(y: Tensor) -> Tensor:
            check_output(self.branch, y, x.shape[:-2], self.dim)
            with full_precision(x):
                weights = (scores.unsqueeze(-1) * post).to(wide)
            return ops.sparse_write(x, self.basis(y).to(wide), weights, res.to(wide), index)

        return u, finish

    def over_all(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "*batch n"], Int64[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """pre over all streams; the active streams of each token, ascending, and their scores.

        Generator and router are one product with the state, where the operator serves both.
        """
        reads, router = self.reads, self.router
        if type(reads) is not Flattened or router.weight is None or watched(reads) or watched(router):
            return self.read_weights(x), *self.best(router(x))
        dtype = torch.promote_types(reads.weight.dtype, x.dtype)
        if reads.norm_eps != router.norm_eps or router.bias.dtype != reads.weight.dtype or not one_pass(x, dtype):
            return self.read_weights(x), *self.best(router(x))
        with full_precision(x):
            rows = torch.cat([reads.weight.to(dtype), router.rows(dtype)])
            projected, _ = ops.coefficients(x, rows, router.norm_eps)
            of_reads, of_router = projected.split((self.streams, self.streams + 1), -1)
            logits = reads.gate.to(dtype) * of_reads + reads.bias.to(dtype)
            return read_weights(self.recipe, logits), *self.best(router.scores(of_router))

    def route(self, x: Float[Tensor, "*batch n C"]) -> tuple[Int64[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """The active streams of each token, ascending, and their scores."""
        _, index, scores = self.over_all(x)
        return index, scores

    def best(self, scores: Float[Tensor, "*batch n"]) -> tuple[Int64[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """The active streams by these scores of all, ascending, and theirs."""
        chosen = scores[..., self.fixed :].topk(self.active - self.fixed, -1).indices.sort(-1).values + self.fixed
        always = torch.arange(self.fixed, device=scores.device).expand(*scores.shape[:-1], self.fixed)
        index = torch.cat([always, chosen], -1)
        return index, scores.gather(-1, index)

    def read_weights(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n"]:
        """pre, in float32 at least."""
        (logits,) = self.reads(x)
        return read_weights(self.recipe, logits)

    def coefficients(
        self, x: Float[Tensor, "*batch n C"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch k basis"], Float[Tensor, "*batch k k"]]:
        """pre over all streams; post (not yet scaled by the scores) and H_res of the active ones, see `over_all`."""
        self.check(x)
        pre, index, _ = self.over_all(x)
        active = x.gather(-2, index.unsqueeze(-1).expand(*index.shape, self.dim))
        return pre, *self.active_coefficients(active)

    def active_coefficients(
        self, active: Float[Tensor, "*batch k C"]
    ) -> tuple[Float[Tensor, "*batch k basis"], Float[Tensor, "*batch k k"]]:
        """post and H_res for these active streams, in float32 at least."""
        post, res = self.logits(active)
        with full_precision(active):
            post = self.write_weights(post).unflatten(-1, (self.active, self.basis.size))
            H = self.manifold(res)
            if self.manifold.guarantees.nonnegative and not self.manifold.guarantees.rows:
                H = H / H.sum(-1, keepdim=True).clamp(min=1)
            return post, H

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return Collapse(dim, streams, recipe)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, active={self.active}, fixed={self.fixed}"


def active_of(recipe: Recipe) -> int:
    """k: how many streams a site updates."""
    return recipe.connection_options.get("active", 4)
