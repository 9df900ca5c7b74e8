"""Generalised hyper-connections (Virtual Width Networks): a state wider than the branches, in segments."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..._checks import is_integer
from ...manifolds import Manifold
from ...recipes import Recipe, Wiring
from .. import generators, initialisation
from ..activations import read_weights
from ..generators import Start
from .base import Connection, State, manifold_of
from .combine import check_output, combine
from .hyper import check_width


class GeneralisedConnection(
    Connection,
    wiring=Wiring(
        "generalised",
        logits=("static", "flattened", "per-stream"),
        endings=("sum", "mean"),
        options=("segments",),
        anneals=True,
    ),
):
    """A site on n segments h_i of width C / m, of which m make a branch's width (GHC, DGHC: VWN, arXiv 2511.11238).

        u_s = sum_i pre[i, s] h_i,   y = branch(u_0 | ... | u_{m-1}),
        out_i = sum_j H_res[i, j] h_j + sum_s post[i, s] y_s

    The paper's read matrix is pre, its write matrix post', its carry H_res'. The state is n / m times as wide as a
    branch: m = 1 is a hyper-connection, n = m with a diagonal post a Frac-Connection. Any manifold may hold H_res; with
    per-stream logits one that takes n^2 of them. A new site whose recipe starts at the identity reads one copy of each
    segment, which rotates with the site, and writes y_s to every copy of segment s, so that copies act as the plain
    residual network (exactly so with linear activations; a sigmoid can't make a weight of zero, only 3e-4).

    Args:
        streams: n, the number of segments, >= m.
        recipe: of connection "generalised". Its connection_options give `segments`: m, which divides C.
        The others are Connection's.

    Call: site(x, *args, **kwargs) with x (..., n, C / m) -> the same shape.
    """

    unmapped = "the maps of generalised connections, between segments of streams, are not shown"

    def build(self, manifold: str | Manifold | None) -> None:
        n, m = self.streams, self.segments_of(self.recipe, self.streams)
        if self.dim % m:
            raise ValueError(f"dim: got {self.dim}; accepted with {m} segments to a branch: multiples of {m}")
        self.segments, self.width = m, self.dim // m
        self.manifold = manifold_of(manifold, self.recipe, n)
        sizes = (n * m, n * self.writes, self.manifold.num_logits)
        self.logits = generators.make(self.recipe, self.width, n, sizes, self.start(), temperature=self.temperature)

    @property
    def rows(self) -> tuple[int, int]:
        return self.streams, self.width

    @property
    def writes(self) -> int:
        """How many write weights each segment of the state has."""
        return self.segments

    @property
    def temperature(self) -> float:
        """tau of per-stream logits: sqrt(C / m)."""
        return float(self.width**0.5)

    def start(self) -> Start:
        with torch.device("cpu"):
            mix = self.manifold.identity_logits()
            if self.recipe.start == "zero":
                bias = torch.zeros(self.streams * (self.segments + self.writes) + len(mix))
            else:
                read = initialisation.read_logits(self.recipe, self.first_read())
                write = initialisation.write_logits(self.recipe, self.first_write())
                bias = torch.cat([read.flatten(), write.flatten(), initialisation.mix_logits(self.recipe, mix)])
        return Start.at(bias, self.recipe.weight_std, self.recipe.gate)

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

    def begin(self, x: Float[Tensor, "*batch C"]) -> State:
        """n segments: segment i is segment i mod m of x, whose last dimension is cut in m.

        x may also come over-wide, n / m times a branch's width, as from the paper's over-wide embeddings: it is cut in
        n.
        """
        over_wide = self.streams * self.width
        check_width(x, *dict.fromkeys((self.dim, over_wide)))
        h = x.unflatten(-1, (-1, self.width))
        if x.shape[-1] == over_wide:
            return h
        copies = -(-self.streams // self.segments)
        return h.repeat(*[1] * (h.ndim - 2), copies, 1)[..., : self.streams, :]

    def coefficients(
        self, x: Float[Tensor, "*batch n width"]
    ) -> tuple[Float[Tensor, "*batch n m"], Float[Tensor, "*batch n writes"], Float[Tensor, "*batch n n"]]:
        """pre, post and H_res for these segments, in float32 at least."""
        self.check(x)
        pre, post, res = self.logits(x)
        return (
            read_weights(self.recipe, pre).unflatten(-1, (self.streams, self.segments)),
            self.write_weights(post).unflatten(-1, (self.streams, self.writes)),
            self.manifold(res),
        )

    def read(self, x: Float[Tensor, "*batch n width"], pre: Float[Tensor, "*batch n m"]) -> Float[Tensor, "*batch C"]:
        return combine(pre.mT, [x], x.dtype).flatten(-2)

    def write(
        self,
        x: Float[Tensor, "*batch n width"],
        y: Float[Tensor, "*batch C"],
        post: Float[Tensor, "*batch n writes"],
        res: Float[Tensor, "*batch n n"],
    ) -> Float[Tensor, "*batch n width"]:
        check_output(self.branch, y, x.shape[:-2], self.dim)
        return combine(torch.cat([res, self.spread(post)], -1), [x, y.unflatten(-1, (self.segments, -1))], x.dtype)

    def spread(self, post: Float[Tensor, "*batch n writes"]) -> Float[Tensor, "*batch n m"]:
        """The weight of each segment of the output in each segment of the state."""
        return post

    @classmethod
    def ending(cls, recipe: Recipe, dim: int, streams: int) -> nn.Module:
        return Narrow(cls.segments_of(recipe, streams), streams, recipe.collapse)

    @staticmethod
    def segments_of(recipe: Recipe, streams: int) -> int:
        """m: how many segments make a branch's width."""
        segments = recipe.connection_options["segments"]
        if not is_integer(segments, 1, streams):
            raise ValueError(
                f"segments: got {segments!r}; accepted with {streams} streams: integers from 1 to {streams}"
            )
        return int(segments)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, segments={self.segments}"


class Narrow(nn.Module):
    """End n segments in one state: segment s is the sum or the mean of its copies s, s + m, s + 2m, ...

    Where n is no multiple of m, some have one copy more than others, and only the mean gives all the same scale.
    """

    def __init__(self, segments: int, streams: int, how: str) -> None:
        super().__init__()
        self.segments, self.streams, self.how = segments, streams, how

    def forward(self, h: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch C"]:
        parts = [h[..., s :: self.segments, :] for s in range(self.segments)]
        return torch.cat([part.sum(-2) if self.how == "sum" else part.mean(-2) for part in parts], -1)

    def extra_repr(self) -> str:
        return f"segments={self.segments}, streams={self.streams}, how={self.how!r}"
