"""uHC: groups of channels that are read apart, and writes in a direction of every stream's own."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ... import functional
from ..._checks import check_integer
from ..._parameters import AtLeastFloat32, assign, assign_normal, parameter_dtype
from ..._precision import full_precision
from ...manifolds import Manifold
from ...recipes import Wiring
from .. import generators
from ..activations import read_weights
from ..generators import Generator, PerGroup, Start, Static
from .base import Finish, manifold_of
from .combine import check_output
from .multi_head import MultiHeadConnection, heads_of


class UncoupledConnection(
    MultiHeadConnection,
    wiring=Wiring(
        "uncoupled", logits=("static", "flattened"), endings=("sum", "mean", "head"), options=("heads",), anneals=True
    ),
):
    """A site whose groups of channels are read apart, and its streams written apart (uHC, OpenReview Qnj7Lf8Bz2).

        u^g = sum_j pre^g_j x^g_j,   pre^g made of x^g alone
        out_i = sum_j H_res[i, j] x_j + post_i (y + B_i A_i y),   A_i (r, C), B_i (C, r)

    post and H_res are made of the whole state, and are the same for all h groups. The state is MultiHeadConnection's,
    (..., h, n, C / h). Traces repeat post and H_res for every group; B_i A_i, which starts at zero, they do not show.

    Args:
        recipe: of connection "uncoupled". Its connection_options give `heads`: h, the groups; its `rank` is r.
        The others are MultiHeadConnection's.
    """

    def build(self, manifold: str | Manifold | None) -> None:
        recipe, n = self.recipe, self.streams
        self.heads, self.width = heads_of(recipe, self.dim)
        self.manifold = manifold_of(manifold, recipe, n)
        read, write, mix = self.sizes
        start = self.starts(self.heads, 1, 1)
        reads, others = (
            Start(bias, start.weight_std, start.gate)
            for bias in (start.bias[: self.heads * read], start.bias[self.heads * read :])
        )
        self.reads: Generator
        if recipe.logits == "flattened":
            self.reads = PerGroup(self.width, n, self.heads, read, recipe.norm_eps, start=reads)
        else:
            self.reads = Static((self.heads * read,), start=reads)
        self.logits = generators.make(recipe, self.width, self.heads * n, (write, mix), others)
        self.write_back = WriteBack(self.dim, n, self.heads, recipe.rank)

    def coefficients(
        self, x: Float[Tensor, "*batch h n width"]
    ) -> tuple[Float[Tensor, "*batch h n"], Float[Tensor, "*batch h n"], Float[Tensor, "*batch h n n"]]:
        """pre, and post and H_res repeated for every group, in float32 at least."""
        pre, post, res = self.distinct(x)
        h, n = pre.shape[-2:]
        return pre, post.unsqueeze(-2).expand(pre.shape), res.unsqueeze(-3).expand(*res.shape[:-2], h, n, n)

    def distinct(
        self, x: Float[Tensor, "*batch h n width"]
    ) -> tuple[Float[Tensor, "*batch h n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
        """pre of every group, post and H_res, in float32 at least."""
        self.check(x)
        rows = x.flatten(-3, -2)
        (read,) = self.reads(rows)
        write, mix = self.logits(rows)
        pre = read_weights(self.recipe, read.unflatten(-1, (self.heads, self.streams)))
        return pre, self.write_weights(write), self.manifold(mix)

    def join(self, x: Tensor, *carried: Tensor) -> tuple[Float[Tensor, "*batch C"], Finish]:
        pre, post, res = self.distinct(x)
        return self.read(x, pre), lambda y: self.write(x, y, post, res)

    def write(
        self,
        x: Float[Tensor, "*batch h n width"],
        y: Float[Tensor, "*batch C"],
        post: Float[Tensor, "..."],
        res: Float[Tensor, "..."],
    ) -> Float[Tensor, "*batch h n width"]:
        """post (..., n) and res (..., n, n), or each repeated for every group."""
        check_output(self.branch, y, x.shape[:-3], self.dim)
        if post.ndim == x.ndim - 1:  # repeated for every group, as `coefficients` has them
            post, res = post[..., 0, :], res[..., 0, :, :]
        wide = torch.promote_types(post.dtype, torch.promote_types(x.dtype, y.dtype))
        y = y.to(wide)
        written = functional.write(
            x.to(wide), y.unflatten(-1, (self.heads, self.width)), post.unsqueeze(-2), res.unsqueeze(-3)
        )
        return (written + self.write_back(y, post)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.recipe.rank}"


class WriteBack(AtLeastFloat32):
    """What the streams are written of a branch's output apart from each other: post_i B_i A_i y.

    Parameters:
        down (n, r, C): A, random; up (n, C, r): B, zero at the start.

    Raises:
        ValueError: rank < 1.
    """

    def __init__(self, dim: int, streams: int, heads: int, rank: int) -> None:
        super().__init__()
        check_integer("rank", rank, 1)
        self.heads = heads
        dtype = parameter_dtype()
        self.down = nn.Parameter(torch.empty(streams, rank, dim, dtype=dtype))
        self.up = nn.Parameter(torch.empty(streams, dim, rank, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        assign_normal(self.down, self.down.shape[-1] ** -0.5)
        assign(self.up, 0.0)

    def forward(
        self, y: Float[Tensor, "*batch C"], post: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch h n width"]:
        with full_precision(y):
            low = torch.einsum("...c,nrc->...nr", y, self.down.to(y.dtype)) * post.unsqueeze(-1)
            groups = self.up.to(y.dtype).chunk(self.heads, 1)
            return torch.stack([torch.einsum("...nr,nwr->...nw", low, up) for up in groups], -3)
