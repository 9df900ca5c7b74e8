"""ManifoldConstrainedHyperConnections with streams folded into the batch: the package's mHC, arXiv 2512.24880."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .constrained import Constrained, averaged
from .constraint import l1norm, log_domain_sinkhorn_knopps, sinkhorn_knopps
from .ends import AttentionPoolReduceStream, StreamEmbed, folded_ends
from .hyper_connections import by_output, get_expand_reduce_stream_functions, rows_by_stream
from .layouts import Folded
from .norm import RMSNorm
from .plain import Residual
from .site import DepthResidual, add, first_stream, one_hot, start_of_reads

__all__ = [
    "AttentionPoolReduceStream",
    "ManifoldConstrainedHyperConnections",
    "RMSNorm",
    "Residual",
    "StreamEmbed",
    "get_expand_reduce_stream_functions",
    "get_init_and_expand_reduce_stream_functions",
    "l1norm",
    "log_domain_sinkhorn_knopps",
    "mHC",
    "sinkhorn_knopps",
]


def get_init_and_expand_reduce_stream_functions(
    num_streams: int,
    num_fracs: int = 1,
    dim: int | None = None,
    add_stream_embed: bool = False,
    disable: bool | None = None,
    sinkhorn_iters: int = 20,
    **kwargs: Any,
) -> tuple[Callable[..., Any], nn.Module, nn.Module]:
    """A maker of connections, and the modules that begin and end their streams.

    The maker is ManifoldConstrainedHyperConnections with these arguments and kwargs filled in, or with `disable`
    Residual, which None means for one stream without fractions.
    """
    disable = (num_streams == 1 and num_fracs == 1) if disable is None else disable
    made = Residual if disable else ManifoldConstrainedHyperConnections
    init = partial(made, num_streams, num_fracs=num_fracs, sinkhorn_iters=sinkhorn_iters, **kwargs)
    if dim is not None:
        init = partial(init, dim=dim)
    return init, *folded_ends(num_streams, add_stream_embed, dim, disable)


class ManifoldConstrainedHyperConnections(Constrained):
    """n streams whose mixing is nearly doubly stochastic; each stream makes its weights of itself:

        z_s = RMSNorm(x_s),   u = sum_s sigmoid(a[s, 0]) x_s,   H = Sinkhorn(a[:, 1:])
        out_t = sum_s H[s, t] x_s + 2 sigmoid(b_t) branch(u),   a_s = static_alpha_s + scales z_s W_a,   b likewise

    The source's norm is over all streams together; recipe "mhc" of streammix has that one. For the arguments see
    `Constrained`, and HyperConnections for channel_first and package_fracs, which here takes the whole of alpha as the
    package splits it: with fractions a part of the reads then goes through Sinkhorn and a part of the mixing not.

    Parameters: static_alpha (s f, v f + s f), dynamic_alpha_fn (p, D / f, v f + s f), pre_branch_scale (1),
    residual_scale (1), static_beta (s f), dynamic_beta_fn (D / f) or (D / f, f), h_post_scale (), norm.gamma (D / f).

    Call: (b s) ... D -> (b s) ... D.
    """

    get_expand_reduce_stream_functions = staticmethod(get_expand_reduce_stream_functions)
    get_init_and_expand_reduce_stream_functions = staticmethod(get_init_and_expand_reduce_stream_functions)

    def __init__(
        self,
        num_residual_streams: int,
        *,
        dim: int,
        branch: Callable[..., Any] | None = None,
        layer_index: int | None = None,
        channel_first: bool = False,
        dropout: float = 0.0,
        residual_transform: nn.Module | None = None,
        add_branch_out_to_residual: bool = True,
        num_input_views: int = 1,
        depth_residual_fn: DepthResidual = add,
        num_fracs: int = 1,
        sinkhorn_iters: int = 20,
        log_domain_sinkhorn: bool = False,
        residual_mix_constraint_fn: Callable[[Tensor], Tensor] | None = None,
        forward_method_names: tuple[str, ...] = (),
        num_dynamic_alpha_proposals: int = 1,
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
        s, f, v = num_residual_streams, num_fracs, num_input_views
        self.channel_first, self.package_fracs = channel_first, package_fracs
        reads = start_of_reads(s, f, v, stream := first_stream(layer_index, s)).transpose(0, 1).reshape(f * s, v * f)
        if package_fracs:
            reads = one_hot(stream, f * s).unsqueeze(-1).expand(f * s, v * f)
        self.alpha_parameters(reads, num_dynamic_alpha_proposals)
        if add_branch_out_to_residual:
            self.beta_parameters((s * f,), (dim // f,) if f == 1 else (dim // f, f))
        sinkhorn = log_domain_sinkhorn_knopps if log_domain_sinkhorn else sinkhorn_knopps
        self.constrain(residual_mix_constraint_fn, partial(sinkhorn, iters=sinkhorn_iters))
        self.after(dropout, residual_transform, forward_method_names)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        s, f = self.num_residual_streams, self.num_fracs
        made, beta = self.projected(x, x)
        alpha = made + rows_by_stream(self.static_alpha, s, f).to(made.dtype).unsqueeze(-2)
        if f > 1 and self.package_fracs:
            pre, res = self.as_the_package(alpha)
        else:
            reads = f * self.num_input_views
            if f > 1:  # its columns of the mixing are (fraction, stream), our rows (stream, fraction)
                mix = alpha[..., reads:].unflatten(-1, (f, s)).mT.flatten(-2)
                alpha = torch.cat([alpha[..., :reads], mix], -1)
            pre, res = self.constrained(alpha)
        if beta is None:
            return pre, None, res
        static = self.static_beta.to(beta.dtype).view(s, 1, f)
        return pre, 2 * (beta.unflatten(-2, (s, f)) + static).mT.flatten(-3, -2).sigmoid(), res

    def as_the_package(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """alpha (..., R, p, columns): the first `views` columns are reads, all others are constrained, fraction by
        fraction over the streams, and then both are split into fractions."""
        s, f, v = self.num_residual_streams, self.num_fracs, self.num_input_views
        alpha = alpha.movedim(-2, 0).unflatten(-2, (s, f)).transpose(-3, -2)  # p, ..., f, s, columns
        alpha = torch.cat([alpha[..., :v].sigmoid(), self.residual_mix_constraint_fn(alpha[..., v:])], -1)
        return by_output(averaged(alpha).transpose(-3, -2).flatten(-3, -2), s, f, v)


mHC = ManifoldConstrainedHyperConnections
