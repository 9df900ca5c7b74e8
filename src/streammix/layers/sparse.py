"""xHC: many streams, of which a site updates a few that a router picks, along the branch's recent outputs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..functional import full_precision, read
from ..manifolds.precision import AtLeastFloat32, parameter_dtype
from ..recipes import Recipe
from . import initialisation
from .coefficients import Coefficients, Flattened, Static
from .from_recipe import check_index, frozen_gate, layer_norm_eps, manifold_of, read_weights, write_weights
from .segments import combine, run_branch
from .temporal import TemporalBasis

SCORE_LOGIT = 1.0  # of every stream in a new router: a score of sigmoid(1) = 0.73
SCORE_SPREAD = 3e-6  # of a new router's logits over tokens and streams: enough to route apart, not to be seen in a sum
WRITE_SPREAD = 0.25  # by which one active stream is written more than the others in a new site, and another less


class SparseConnection(nn.Module):
    """A site on n streams that reads all of them and updates k (xHC, arXiv 2607.14530).

        u = sum_j pre_j x_j,   y = branch(u)                                    over all n streams
        p = sigmoid(LayerNorm(vec x) W + b),   active = the first `fixed` streams and the best k - fixed of the others
        x_active <- H_res x_active + p_active (post V)

    V holds y and, for each of the site's filters, a causal depthwise convolution of y over time, orthogonal to each
    other token by token (TemporalBasis). H_res (k, k) and post (k, 1 + filters) are made from the active streams alone,
    in the order of their index. Any manifold may hold H_res; if it is nonnegative without exact rows, rows that sum to
    more than one are scaled down to one, as in the paper.

    A new site whose recipe starts at the identity has pre = 1 / k throughout, H_res near the identity, and writes that
    sum to k over the active streams, however tokens are routed. Streams that began as k / n of a state (`share`) then
    hold k times the plain residual network's state as their sum.

    Args:
        branch: maps (..., T, C) to (..., T, C).
        dim: C.
        streams: n.
        recipe: of connection "sparse", with flattened or static logits. Static routing is the same for every token, and
            streams that no site chooses stay copies.
        site: index of this site in the network; it chooses the filters.
        active: k, at most n.
        fixed: how many streams are always active, at most k.
        temporal: lengths of the causal filters of site 0, 1, ...; repeated along the sites. Default: none for even
            sites (attention), 4, 8 and 12 tokens for odd ones (MLP).
        time_axis: the axis of the branch's output along which tokens follow each other; not the last. Sites without
            filters do without it. Text that comes in parts (decoding) must come with what precedes it.

    Raises:
        ValueError: numbers that do not fit together. At the call: a wrong shape, no time axis where one is needed.

    Call: site(x, *args, **kwargs) with x (..., n, C) -> the same shape.
    """

    def __init__(
        self,
        branch: Callable[..., Any],
        dim: int,
        streams: int,
        recipe: Recipe,
        site: int,
        *,
        active: int = 4,
        fixed: int = 2,
        temporal: Sequence[Sequence[int]] = ((), (4, 8, 12)),
        time_axis: int = -2,
    ) -> None:
        super().__init__()
        check_index("active", active, 1)
        check_index("fixed", fixed, 0)
        if not fixed <= active <= streams:
            raise ValueError(
                f"active: got {active} with {fixed} fixed and {streams} streams; accepted: fixed <= active <= streams"
            )
        if recipe.logits not in ("flattened", "static"):
            raise ValueError(f"logits: got {recipe.logits!r}; sparse connections accept flattened, static")
        if not temporal:
            raise ValueError(
                "temporal: got no site; accepted: at least one site's filter lengths, which may be none: ((),)"
            )
        self.branch, self.dim, self.streams, self.recipe, self.site = branch, dim, streams, recipe, site
        self.active, self.fixed = active, fixed
        self.basis = TemporalBasis(dim, temporal[site % len(temporal)], time_axis)
        self.manifold = manifold_of(None, recipe, active)
        dynamic = recipe.logits == "flattened"
        self.reads: Coefficients
        self.logits: Coefficients
        sizes = (active * self.basis.size, self.manifold.num_logits)
        if dynamic:
            self.reads = Flattened(dim, streams, (streams,), recipe.norm_eps)
            self.logits = Flattened(dim, active, sizes, recipe.norm_eps, frozen_gate=frozen_gate(recipe))
        else:
            self.reads, self.logits = Static((streams,)), Static(sizes)
        self.router = Router(dim, streams, layer_norm_eps(recipe), dynamic)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the connection's parameters to the recipe's start; the branch is left alone."""
        recipe, k = self.recipe, self.active
        with torch.device("cpu"):
            reads, writes = torch.zeros(self.streams), torch.zeros(k, self.basis.size)
            mix = self.manifold.identity_logits()
            if recipe.start == "identity":
                reads = initialisation.read_logits(recipe, torch.full((self.streams,), 1 / k))
                writes = initialisation.write_logits(recipe, self.first_write())
            if recipe.start == "zero" or recipe.mix_start == "zero":
                mix = torch.zeros_like(mix)
        self.manifold.reset_parameters()
        self.router.reset_parameters()
        self.basis.reset_parameters()
        self.reads.reset_parameters(reads, recipe.weight_std, recipe.gate)
        self.logits.reset_parameters(torch.cat([writes.flatten(), mix]), recipe.weight_std, recipe.gate)

    def first_write(self) -> Float[Tensor, "k basis"]:
        """Writes of y that sum to k once scaled by the scores; unequal, or the fixed streams would stay copies."""
        weights = torch.ones(self.active)
        weights[self.site % self.active] += WRITE_SPREAD
        weights[(self.site + 1) % self.active] -= WRITE_SPREAD
        score = torch.tensor(SCORE_LOGIT).sigmoid()
        return torch.cat([(weights / score).unsqueeze(-1), torch.ones(self.active, self.basis.size - 1)], -1)

    def forward(self, x: Float[Tensor, "*batch n C"], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch n C"]:
        if x.ndim < 2 or x.shape[-2:] != (self.streams, self.dim):
            raise ValueError(f"x: got shape {tuple(x.shape)}; accepted: (..., {self.streams}, {self.dim})")
        index, scores = self.route(x)
        rows = index.unsqueeze(-1).expand(*index.shape, self.dim)
        active = x.gather(-2, rows)
        post, res = self.coefficients(active)
        y = run_branch(self.branch, read(x, self.read_weights(x)), args, kwargs)
        with full_precision(x):
            weights = torch.cat([res, scores.unsqueeze(-1) * post], -1)
        return x.scatter(-2, rows, combine(weights, [active, self.basis(y)], x.dtype))

    def route(self, x: Float[Tensor, "*batch n C"]) -> tuple[Int64[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """The active streams of each token, ascending, and their scores."""
        scores = self.router(x)
        chosen = scores[..., self.fixed :].topk(self.active - self.fixed, -1).indices.sort(-1).values + self.fixed
        always = torch.arange(self.fixed, device=x.device).expand(*x.shape[:-2], self.fixed)
        index = torch.cat([always, chosen], -1)
        return index, scores.gather(-1, index)

    def read_weights(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n"]:
        """pre, in float32 at least."""
        (logits,) = self.reads(x)
        return read_weights(self.recipe, logits)

    def coefficients(
        self, active: Float[Tensor, "*batch k C"]
    ) -> tuple[Float[Tensor, "*batch k basis"], Float[Tensor, "*batch k k"]]:
        """post and H_res for these active streams, in float32 at least."""
        post, res = self.logits(active)
        with full_precision(active):
            post = write_weights(self.recipe, post).unflatten(-1, (self.active, self.basis.size))
            H = self.manifold(res)
            if self.manifold.guarantees.nonnegative and not self.manifold.guarantees.rows:
                H = H / H.sum(-1, keepdim=True).clamp(min=1)
            return post, H

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, streams={self.streams}, active={self.active}, fixed={self.fixed},"
            f" recipe={self.recipe.name!r}, site={self.site}"
        )


class Router(AtLeastFloat32):
    """Scores of the streams from the whole state: sigmoid(LayerNorm(vec x) W + b), or sigmoid(b) if static.

    The norm has no parameters of its own: W and b absorb them.
    """

    def __init__(self, dim: int, streams: int, norm_eps: float, dynamic: bool) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        dtype = parameter_dtype()
        self.weight = nn.Parameter(torch.empty(streams, streams * dim, dtype=dtype)) if dynamic else None
        self.bias = nn.Parameter(torch.empty(streams, dtype=dtype))

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.bias.fill_(SCORE_LOGIT)
            if self.weight is None:
                self.bias.add_(SCORE_SPREAD * torch.randn_like(self.bias))
            else:
                self.weight.normal_(std=SCORE_SPREAD * self.weight.shape[1] ** -0.5)

    def forward(self, x: Float[Tensor, "*batch n C"]) -> Float[Tensor, "*batch n"]:
        dtype = torch.promote_types(self.bias.dtype, x.dtype)
        with full_precision(x):
            bias = self.bias.to(dtype)
            if self.weight is None:
                return bias.sigmoid().expand(*x.shape[:-2], len(bias))
            flat = x.flatten(-2).to(dtype)
            return F.linear(
                F.layer_norm(flat, flat.shape[-1:], eps=self.norm_eps), self.weight.to(dtype), bias
            ).sigmoid()


def share(x: Float[Tensor, "*batch n C"], active: int) -> Float[Tensor, "*batch n C"]:
    """k / n of each stream: what a sparse stack starts with."""
    return x * (active / x.shape[-2])
