"""Generalised hyper-connections (Virtual Width Networks): a state wider than the branches, in segments."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..recipes import Recipe
from . import initialisation
from .coefficients import Coefficients, Flattened, Static
from .from_recipe import frozen_gate, layer_norm_eps, manifold_of, read_weights, write_weights
from .per_segment import PerSegment
from .segments import combine, run_branch


class GeneralisedConnection(nn.Module):
    """A site on n segments h_i of width C / m, of which m make a branch's width (GHC, DGHC: VWN, arXiv 2511.11238).

        u_s = sum_i pre[i, s] h_i,   y = branch(u_0 | ... | u_{m-1}),
        out_i = sum_j H_res[i, j] h_j + sum_s post[i, s] y_s

    The paper's read matrix is pre, its write matrix post', its carry H_res'. The state is n / m times as wide as a
    branch: m = 1 is a hyper-connection, n = m with a diagonal post a Frac-Connection. Any manifold may hold H_res; with
    per-stream logits one that takes n^2 of them. A new site whose recipe starts at the identity reads one copy of each
    segment, which rotates with the site, and writes y_s to every copy of segment s, so that copies act as the plain
    residual network (exactly so with linear activations; a sigmoid can't make a weight of zero, only 3e-4).

    Args:
        branch: maps (..., C) to (..., C).
        dim: C.
        streams: n, the number of segments, >= m.
        recipe: of connection "generalised".
        site: index of this site in the network.
        segments: m, which divides C.

    Raises:
        ValueError: numbers that do not fit together.

    Call: site(h, *args, **kwargs) with h (..., n, C / m) -> the same shape.
    """

    def __init__(
        self, branch: Callable[..., Any], dim: int, streams: int, recipe: Recipe, site: int, *, segments: int
    ) -> None:
        super().__init__()
        if isinstance(segments, bool) or not isinstance(segments, int) or not 1 <= segments <= streams:
            raise ValueError(
                f"segments: got {segments!r}; accepted with {streams} streams: integers from 1 to {streams}"
            )
        if dim % segments:
            raise ValueError(f"dim: got {dim}; accepted with {segments} segments to a branch: multiples of {segments}")
        self.branch, self.dim, self.streams, self.recipe, self.site = branch, dim, streams, recipe, site
        self.segments, self.width = segments, dim // segments
        self.manifold = manifold_of(None, recipe, streams)
        self.logits = self._generator()
        self.reset_parameters()

    @property
    def writes(self) -> int:
        """Write weights a segment of the state has."""
        return self.segments

    @property
    def temperature(self) -> float:
        """tau of the dynamic part: sqrt(C / m)."""
        return float(self.width**0.5)

    def _generator(self) -> Coefficients:
        n, recipe, num_logits = self.streams, self.recipe, self.manifold.num_logits
        sizes = (n * self.segments, n * self.writes, num_logits)
        match recipe.logits:
            case "static":
                return Static(sizes)
            case "flattened":
                return Flattened(self.width, n, sizes, recipe.norm_eps, frozen_gate=frozen_gate(recipe))
            case "per-stream" if num_logits == n * n:
                return PerSegment(self.width, n, self.segments, self.writes, self.temperature, layer_norm_eps(recipe))
            case "per-stream":
                raise ValueError(
                    f"manifold: got one with {num_logits} logits; per-stream logits (recipe {recipe.name!r}) come in"
                    f" n^2 = {n * n}"
                )
            case other:
                raise ValueError(
                    f"logits: got {other!r}; {recipe.connection} connections accept static, flattened, per-stream"
                )

    def reset_parameters(self) -> None:
        """Set the connection's parameters to the recipe's start; the branch is left alone."""
        with torch.device("cpu"):
            mix = self.manifold.identity_logits()
            if self.recipe.start == "zero":
                start = torch.zeros(self.streams * (self.segments + self.writes) + len(mix))
            else:
                read = initialisation.read_logits(self.recipe, self.first_read())
                write = initialisation.write_logits(self.recipe, self.first_write())
                mix = mix if self.recipe.mix_start == "identity" else torch.zeros_like(mix)
                start = torch.cat([read.flatten(), write.flatten(), mix])
        self.manifold.reset_parameters()
        self.logits.reset_parameters(start, self.recipe.weight_std, self.recipe.gate)

    def first_read(self) -> Float[Tensor, "n m"]:
        """Segment s of the branch's input is read from the copies of segment s, mostly from one of them."""
        n, m = self.streams, self.segments
        read = torch.zeros(n, m)
        for s in range(m):
            read[s::m, s] = initialisation.read_weights(self.recipe, len(range(s, n, m)), self.site)
        return read

    def first_write(self) -> Float[Tensor, "n writes"]:
        """Segment s of the branch's output goes to every copy of segment s."""
        n, m = self.streams, self.segments
        return (torch.arange(n).unsqueeze(-1) % m == torch.arange(m)).float()

    def forward(self, h: Float[Tensor, "*batch n width"], *args: Any, **kwargs: Any) -> Float[Tensor, "*batch n width"]:
        pre, post, res = self.coefficients(h)
        u = combine(pre.mT, [h], h.dtype).flatten(-2)
        y = run_branch(self.branch, u, args, kwargs).unflatten(-1, (self.segments, self.width))
        return self.write(h, y, post, res)

    def write(
        self,
        h: Float[Tensor, "*batch n width"],
        y: Float[Tensor, "*batch m width"],
        post: Float[Tensor, "*batch n m"],
        res: Float[Tensor, "*batch n n"],
    ) -> Float[Tensor, "*batch n width"]:
        """The segments after the site."""
        return combine(torch.cat([res, post], -1), [h, y], h.dtype)

    def coefficients(
        self, h: Float[Tensor, "*batch n width"]
    ) -> tuple[Float[Tensor, "*batch n m"], Float[Tensor, "*batch n writes"], Float[Tensor, "*batch n n"]]:
        """pre, post and H_res for these segments, in float32 at least."""
        if h.ndim < 2 or h.shape[-2:] != (self.streams, self.width):
            raise ValueError(f"h: got shape {tuple(h.shape)}; accepted: (..., {self.streams}, {self.width})")
        pre, post, res = self.logits(h)
        return (
            read_weights(self.recipe, pre).unflatten(-1, (self.streams, self.segments)),
            write_weights(self.recipe, post).unflatten(-1, (self.streams, self.writes)),
            self.manifold(res),
        )

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, streams={self.streams}, segments={self.segments}, recipe={self.recipe.name!r},"
            f" site={self.site}"
        )


def widen(x: Float[Tensor, "*batch C"], segments: int, streams: int) -> Float[Tensor, "*batch n width"]:
    """Start n segments: segment i is segment i mod m of x, whose last dimension is cut in m.

    x may also come over-wide, n / m times a branch's width, as from the paper's over-wide embeddings: it is cut in n.
    """
    h = x.unflatten(-1, (segments, -1))
    copies = -(-streams // segments)
    return h.repeat(*[1] * (h.ndim - 2), copies, 1)[..., :streams, :]


class Narrow(nn.Module):
    """End n segments in one state: segment s is the sum or the mean of its copies s, s + m, s + 2m, ...

    Where n is no multiple of m, some have one copy more than others, and only the mean gives all the same scale.
    """

    def __init__(self, segments: int, streams: int, how: str) -> None:
        super().__init__()
        if how not in ("sum", "mean"):
            raise ValueError(f"collapse: got {how!r}; generalised connections accept sum, mean")
        self.segments, self.streams, self.how = segments, streams, how

    def forward(self, h: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch C"]:
        parts = [h[..., s :: self.segments, :] for s in range(self.segments)]
        return torch.cat([part.sum(-2) if self.how == "sum" else part.mean(-2) for part in parts], -1)

    def extra_repr(self) -> str:
        return f"segments={self.segments}, streams={self.streams}, how={self.how!r}"
