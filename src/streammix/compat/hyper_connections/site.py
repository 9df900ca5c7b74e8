"""A connection of n streams: read, branch, mix and write, in either layout, with fractions and several input views.

Inside, a state has R = s f rows of width d = D / f, the fractions of a stream one below the other; x is (..., R, d), or
without fractions as the layout has it: rows_dim says where its rows are. All that is made of it is (..., R, *).

    u_k = sum_r pre[k, r] x_r,   k = (view, fraction)          out_r = sum_q res[r, q] x_q + sum_g post[r, g] y_g
"""

from collections.abc import Callable
from random import randrange
from typing import Any

import torch
from torch import Tensor, nn

from ... import functional
from ..._checks import check_integer
from ...layers.connections.combine import combine
from . import one_pass
from .layouts import Layout
from .one_pass import RowWeights
from .starts import Started
from .uses import Finish, Wrapped, unchanged

DepthResidual = Callable[[Tensor, Tensor], Tensor]


def add(x: Tensor, y: Tensor) -> Tensor:
    """The depth_residual_fn that a write is one operator with."""
    return x + y


class Site(Wrapped, Started):
    """Subclasses give `coefficients`, and have their parameters under the package's names.

    Args:
        layout: of the residuals.
        dim: D, the branch's width.
        branch, dropout, residual_transform, add_branch_out_to_residual, num_input_views, depth_residual_fn, num_fracs:
            as in the classes.

    Raises:
        ValueError: a number that is no integer >= 1, or dim is no multiple of num_fracs.
    """

    def __init__(
        self,
        layout: Layout,
        dim: int,
        *,
        branch: Callable[..., Any] | None = None,
        add_branch_out_to_residual: bool = True,
        num_input_views: int = 1,
        depth_residual_fn: DepthResidual = add,
        num_fracs: int = 1,
    ) -> None:
        super().__init__()
        check_integer("num_residual_streams", layout.streams, 1)
        check_integer("dim", dim, 1)
        check_integer("num_fracs", num_fracs, 1)
        check_integer("num_input_views", num_input_views, 1)
        if dim % num_fracs:
            raise ValueError(f"dim: got {dim}; accepted with num_fracs={num_fracs}: multiples of it")
        self.layout, self.dim, self.branch = layout, dim, branch
        self.rows_dim = layout.dim if num_fracs == 1 else -2
        self.num_residual_streams = layout.streams
        self.num_fracs, self.has_fracs, self.num_input_views = num_fracs, num_fracs > 1, num_input_views
        self.add_branch_out_to_residual = add_branch_out_to_residual
        self.depth_residual_fn = depth_residual_fn
        self.residual_transform: nn.Module | None = None

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """x -> pre (..., views f, R), post (..., R, f) or None without a write, res (..., R, R)."""
        raise NotImplementedError

    def row_weights(self) -> RowWeights | None:
        """How the coefficients are made, where an operator makes them in one pass with the read, or None."""
        return None

    def mixing(self, made: Tensor) -> Tensor:
        """res of the last columns that `row_weights` made, (..., s, s)."""
        return made.mT

    @property
    def one_each(self) -> bool:
        """Whether there is one input view, one fraction and a write."""
        return self.num_fracs == self.num_input_views == 1 and self.add_branch_out_to_residual

    # --- the package's two halves, each by itself ---------------------------------------------------------------

    def width_connection(self, residuals: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
        """The branch's input, the mixed residuals, and what `depth_connection` wants besides; beta is (..., R, f)."""
        x, u, post, res = self.opened(residuals)
        return u, self.kept(x, res), {"beta": post}

    def depth_connection(self, branch_output: Tensor, residuals: Tensor, *, beta: Tensor) -> Tensor:
        """depth_residual_fn(the branch's output spread over the streams, the mixed residuals)."""
        spread = self.folded(combine(beta, [self.split(branch_output)], residuals.dtype))
        return self.ended(self.depth_residual_fn(spread, residuals))

    # --- the same in one pass over the streams ------------------------------------------------------------------

    def connect(self, residuals: Tensor) -> tuple[Tensor, Finish]:
        x, u, post, res = self.opened(residuals)
        if post is None:
            return u, unchanged
        if self.depth_residual_fn is not add:
            mixed, beta = self.kept(x, res), post
            return u, lambda y: self.depth_connection(y, mixed, beta=beta)
        return u, lambda y: self.ended(self.written(x, self.split(y), post, res))

    def opened(self, residuals: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """x, the branch's input, post, res."""
        if self.residual_transform is not None:
            residuals = self.residual_transform(residuals)
        x = self.layout.unfold(residuals)
        if x.shape[-1] != self.dim:
            raise ValueError(
                f"residuals: got {x.shape[-1]} channels in shape {tuple(residuals.shape)}; accepted: {self.dim}"
            )
        if (f := self.num_fracs) > 1:
            x = x.movedim(self.layout.dim, -2)
            x = x.reshape(*x.shape[:-2], self.num_residual_streams * f, self.dim // f)
        if (weights := self.row_weights()) is not None:
            norm: Any = self.norm
            if (made := one_pass.read(x, norm.gamma, weights, self.rows_dim)) is not None:
                u, post, mix = made
                return x, self.layout.first(u), post.unsqueeze(-1), self.mixing(mix)
        pre, post_if_written, res = self.coefficients(x)
        return x, self.read(x, pre), post_if_written, res

    def read(self, x: Tensor, pre: Tensor) -> Tensor:
        """The branch's input, its views before the batch if there are several."""
        if pre.shape[-2] == 1:
            return self.layout.first(functional.read(x, pre.squeeze(-2), dim=self.rows_dim))
        rows = combine(pre, [self.by_token(x)], x.dtype)
        views = rows.unflatten(-2, (self.num_input_views, self.num_fracs)).flatten(-2)
        if self.num_input_views == 1:
            return self.layout.first(views.squeeze(-2))
        return self.layout.first(views.movedim(-2, 0), batch=2)

    def split(self, branch_output: Tensor) -> Tensor:
        """The branch's output as (..., f, d)."""
        y = self.layout.last(branch_output)
        if y.shape[-1] != self.dim:
            raise ValueError(
                f"branch: returned shape {tuple(branch_output.shape)} with {y.shape[-1]} channels; accepted: {self.dim}"
            )
        return y.unflatten(-1, (self.num_fracs, -1))

    def kept(self, x: Tensor, res: Tensor) -> Tensor:
        """res x in the layout of the residuals."""
        return self.folded(combine(res, [self.by_token(x)], x.dtype))

    def written(self, x: Tensor, y: Tensor, post: Tensor, res: Tensor) -> Tensor:
        """res x + post y in the layout of the residuals; y (..., f, d)."""
        if post.shape[-1] == 1:
            return self.layout.fold(functional.write(x, y.squeeze(-2), post.squeeze(-1), res, dim=self.rows_dim))
        weights = torch.cat([res, post.to(res.dtype)], -1)
        return self.folded(combine(weights, [self.by_token(x), y], x.dtype))

    def by_token(self, x: Tensor) -> Tensor:
        """(..., R, d)."""
        return x.movedim(self.rows_dim, -2)

    def folded(self, x: Tensor) -> Tensor:
        """(..., R, d) in the layout of the residuals."""
        streams = x.reshape(*x.shape[:-2], self.num_residual_streams, self.dim)
        return self.layout.fold(streams.movedim(-2, self.layout.dim))

    def ended(self, residuals: Tensor) -> Tensor:
        dropout: Any = self.dropout
        return dropout(residuals)

    def forward_methods(self, names: tuple[str, ...]) -> None:
        """Make the branch's methods of these names the connection's own.

        Raises:
            ValueError: the connection has an attribute of this name, or the branch has none.
        """
        for name in names:
            if hasattr(self, name) or not hasattr(self.branch, name):
                whose = "the connection has one already" if hasattr(self, name) else "the branch has no such method"
                raise ValueError(f"forward_method_names: got {name!r}; {whose}; accepted: methods of the branch alone")
            setattr(self, name, getattr(self.branch, name))


def first_stream(layer_index: int | None, streams: int) -> int:
    """The stream that a new connection reads: layer_index mod s, or any."""
    return (randrange(streams) if layer_index is None else layer_index) % streams


def one_hot(place: int, count: int) -> Tensor:
    """(count): one at a place, zero elsewhere; on the CPU, as starts are."""
    return (torch.arange(count, device="cpu") == place).float()


def beside_identity(reads: Tensor) -> Tensor:
    """(R, k) -> (R, k + R): reads, and every row kept as it is."""
    return torch.cat([reads, torch.eye(len(reads), device="cpu")], -1)


def start_of_reads(streams: int, fracs: int, views: int, stream: int) -> Tensor:
    """(s, f, views, f): view v of a branch's fraction g starts as fraction g of `stream`."""
    with torch.device("cpu"):
        start = torch.zeros(streams, fracs, views, fracs)
        start[stream] = torch.eye(fracs).unsqueeze(1).expand(fracs, views, fracs)
    return start
