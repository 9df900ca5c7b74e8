"""HyperConnections, the dynamic form of arXiv 2409.19606, streams folded into the batch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .dynamic import spread, weights
from .ends import AttentionPoolReduceStream, StreamEmbed, folded_ends
from .layouts import Folded
from .norm import RMSNorm
from .one_pass import RowWeights, in_order
from .plain import Residual
from .site import DepthResidual, Site, add, beside_identity, first_stream, one_hot, start_of_reads

__all__ = [
    "AttentionPoolReduceStream",
    "HyperConnections",
    "RMSNorm",
    "Residual",
    "StreamEmbed",
    "get_expand_reduce_stream_functions",
    "get_init_and_expand_reduce_stream_functions",
]


def get_expand_reduce_stream_functions(
    num_streams: int, add_stream_embed: bool = False, dim: int | None = None, disable: bool = False
) -> tuple[nn.Module, nn.Module]:
    """Modules that begin and end the streams: b ... -> (b s) ... and, a sum, (b s) ... -> b ... .

    Args:
        num_streams: s.
        add_stream_embed: whether to add a learned vector of width dim to each stream.
        dim: D, needed for that.
        disable: identities instead.

    Raises:
        ValueError: dim is missing, or num_streams < 1.
    """
    return folded_ends(num_streams, add_stream_embed, dim, disable)


def get_init_and_expand_reduce_stream_functions(
    num_streams: int,
    num_fracs: int = 1,
    dim: int | None = None,
    add_stream_embed: bool = False,
    disable: bool | None = None,
) -> tuple[Callable[..., Any], nn.Module, nn.Module]:
    """A maker of connections, and the modules that begin and end their streams.

    The maker is HyperConnections with these arguments filled in, or with `disable` Residual, which None means for one
    stream without fractions. See `get_expand_reduce_stream_functions` for the others.
    """
    disable = (num_streams == 1 and num_fracs == 1) if disable is None else disable
    init = partial(Residual if disable else HyperConnections, num_streams, num_fracs=num_fracs)
    if dim is not None:
        init = partial(init, dim=dim)
    return init, *folded_ends(num_streams, add_stream_embed, dim, disable)


class HyperConnections(Site):
    """n streams, read, mixed and written by weights that each stream makes of itself:

        z_s = RMSNorm(x_s),   alpha_s = static_alpha_s + scale act(z_s W_a),   beta_s likewise
        u = sum_s alpha[s, 0] x_s,   out_t = sum_s alpha[s, t] x_s + beta_t branch(u)

    Args:
        num_residual_streams: s.
        dim: D.
        branch: what to wrap, if it is to be wrapped; see `Wrapped` for the other two uses.
        layer_index: place in the network; a new connection reads stream layer_index mod s. None draws one.
        tanh: whether act is tanh, or the identity.
        channel_first: whether residuals are (b s) D ... .
        dropout: on the residuals after the write.
        add_branch_out_to_residual: False returns the branch's output in place of residuals.
        num_input_views: v, how many weighted sums the branch gets, on an axis before the batch if more than one.
        depth_residual_fn: of the branch's output spread over the streams and the mixed residuals; their sum.
        num_fracs: f, how many parts each stream is cut into; parts are mixed and written as streams are (arXiv
            2503.14125).
        package_fracs: True computes and starts fractions as the package does, for weights trained with it: each
            fraction of a stream then gets the sum of all fractions of the branch's output. False gives fraction i the
            i-th, as in the paper, and starts as the plain residual network.

    Parameters: static_alpha (s f, f (v + s)), dynamic_alpha_fn (D / f, f (v + s)), dynamic_alpha_scale (), static_beta
    (s f), dynamic_beta_fn (D / f) or (D / f, f), dynamic_beta_scale (), norm.gamma (D / f).

    Raises:
        ValueError: numbers that do not fit together; at the call, residuals or branch outputs of another shape.

    Call: (b s) ... D -> (b s) ... D.
    """

    static_alpha: nn.Parameter
    dynamic_alpha_fn: nn.Parameter
    dynamic_alpha_scale: nn.Parameter
    static_beta: nn.Parameter
    dynamic_beta_fn: nn.Parameter
    dynamic_beta_scale: nn.Parameter
    get_expand_reduce_stream_functions = staticmethod(get_expand_reduce_stream_functions)
    get_init_and_expand_reduce_stream_functions = staticmethod(get_init_and_expand_reduce_stream_functions)

    def __init__(
        self,
        num_residual_streams: int,
        *,
        dim: int,
        branch: Callable[..., Any] | None = None,
        layer_index: int | None = None,
        tanh: bool = True,
        channel_first: bool = False,
        dropout: float = 0.0,
        add_branch_out_to_residual: bool = True,
        num_input_views: int = 1,
        depth_residual_fn: DepthResidual = add,
        num_fracs: int = 1,
        package_fracs: bool = False,
    ) -> None:
        super().__init__(
            Folded(num_residual_streams, channel_first),
            dim,
            branch=branch,
            add_branch_out_to_residual=add_branch_out_to_residual,
            num_input_views=num_input_views,
            depth_residual_fn=depth_residual_fn,
            num_fracs=num_fracs,
        )
        s, f, v, d = num_residual_streams, num_fracs, num_input_views, dim // num_fracs
        self.channel_first, self.package_fracs = channel_first, package_fracs
        self.act = nn.Tanh() if tanh else nn.Identity()
        self.norm = RMSNorm(d)
        start = alpha_start(s, f, v, first_stream(layer_index, s), package=package_fracs)
        self.start("static_alpha", start)
        self.start("dynamic_alpha_fn", 0.0, (d, f * (v + s)))
        self.start("dynamic_alpha_scale", 1e-2)
        if add_branch_out_to_residual:
            self.start("static_beta", 1.0, (s * f,))
            self.start("dynamic_beta_fn", 0.0, (d,) if f == 1 else (d, f))
            self.start("dynamic_beta_scale", 1e-2)
        self.dropout = nn.Dropout(dropout)

    def row_weights(self) -> RowWeights | None:
        known = type(self.act) in (nn.Tanh, nn.Identity)
        if not self.one_each or not known:
            return None
        of_alpha, of_beta = self.dynamic_alpha_scale, self.dynamic_beta_scale
        return RowWeights(
            in_order(self.dynamic_alpha_fn, self.dynamic_beta_fn),
            spread((of_alpha, 1), (of_beta, 1), (of_alpha, self.num_residual_streams)),
            in_order(self.static_alpha, self.static_beta),
            tanh=type(self.act) is nn.Tanh,
            sigmoid=False,
        )

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        s, f, v = self.num_residual_streams, self.num_fracs, self.num_input_views
        columns = f * (v + s)
        weight: list[Tensor] = [self.dynamic_alpha_fn]
        scale: list[tuple[Tensor, int]] = [(self.dynamic_alpha_scale, columns)]
        if self.add_branch_out_to_residual:
            weight.append(self.dynamic_beta_fn.reshape(-1, f))
            scale.append((self.dynamic_beta_scale, f))
        projection = self.norm.gamma, torch.cat(weight, -1), self.act, spread(*scale)
        static_alpha = rows_by_stream(self.static_alpha, s, f)
        alpha, beta = weights(x, *projection, static_alpha, columns, self.rows_dim)
        pre, res = by_output(alpha, s, f, v)
        if not self.add_branch_out_to_residual:
            return pre, None, res
        static = self.static_beta.to(beta.dtype).view(s, f)
        # static[s, g] is on what fraction g of stream s gets: of branch fraction g, or in the package of every one.
        static = static.unsqueeze(1) if self.package_fracs else torch.diag_embed(static)
        return pre, (beta.unflatten(-2, (s, f)) + static).mT.flatten(-3, -2), res


def alpha_start(s: int, f: int, v: int, stream: int, *, package: bool) -> Tensor:
    """(f s, f (v + s)): reads of one stream, and each fraction of each stream kept as it is.

    Rows are (fraction, stream), columns (fraction, view or stream). The package puts all reads before all streams.
    """
    if package:
        return beside_identity(one_hot(stream, f * s).unsqueeze(-1).expand(f * s, f * v))
    reads = start_of_reads(s, f, v, stream).permute(1, 0, 3, 2)  # f s, f v
    kept = torch.eye(f * s, device="cpu").view(f, s, f, s)
    return torch.cat([reads, kept], -1).flatten(2).flatten(0, 1)


def rows_by_stream(alpha: Tensor, s: int, f: int) -> Tensor:
    """(f s, k) -> (s f, k): the package's v1 has fractions before streams."""
    return alpha if f == 1 else alpha.view(f, s, -1).transpose(0, 1).flatten(0, 1)


def by_output(alpha: Tensor, s: int, f: int, v: int) -> tuple[Tensor, Tensor]:
    """alpha (..., R, f (v + s)), columns (fraction, view or stream) -> pre (..., v f, R), res (..., s f, R)."""
    if f == 1:
        return alpha[..., :v].mT, alpha[..., v:].mT
    alpha = alpha.unflatten(-1, (f, v + s)).movedim(-3, -1).transpose(-3, -2)  # (..., v + s, f, R)
    return alpha[..., :v, :, :].flatten(-3, -2), alpha[..., v:, :, :].flatten(-3, -2)
