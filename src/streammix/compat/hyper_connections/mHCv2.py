"""ManifoldConstrainedHyperConnections with streams on an axis of their own: the package's second mHC."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import constraint
from .constrained import Constrained
from .constraint import l1norm
from .ends import Expand, Sum, copies, pooled, required
from .layouts import Axis
from .norm import RMSNorm
from .one_pass import RowWeights
from .plain import Residual
from .site import DepthResidual, add, first_stream, one_hot, start_of_reads
from .starts import Started, Weight

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


def sinkhorn_knopps(log_alpha: Tensor, iters: int = 20) -> Tensor:
    """The same as of version 1, but for square matrices only; without rounds log_alpha itself, unconstrained."""
    return constraint.sinkhorn_knopps(square(log_alpha), iters) if iters > 0 else log_alpha


def log_domain_sinkhorn_knopps(log_alpha: Tensor, iters: int = 20) -> Tensor:
    """The same as of version 1, but for square matrices only; without rounds log_alpha itself, unconstrained."""
    return constraint.log_domain_sinkhorn_knopps(square(log_alpha), iters) if iters > 0 else log_alpha


def square(log_alpha: Tensor) -> Tensor:
    """log_alpha, or ValueError unless it is (..., n, n)."""
    if log_alpha.ndim < 2 or log_alpha.shape[-1] != log_alpha.shape[-2]:
        raise ValueError(f"log_alpha: got shape {tuple(log_alpha.shape)}; accepted: (..., n, n)")
    return log_alpha


def get_expand_reduce_stream_functions(
    num_streams: int,
    add_stream_embed: bool = False,
    add_attn_pool_reduce_stream: bool = False,
    dim: int | None = None,
    disable: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Modules that begin and end the streams: ... D -> ... s D and, a sum, ... s D -> ... D.

    Args:
        num_streams: s.
        add_stream_embed: whether to add a learned vector of width dim to each stream.
        add_attn_pool_reduce_stream: whether streams end by attention instead of a sum.
        dim: D, needed for either.
        disable: identities instead.

    Raises:
        ValueError: dim is missing, or num_streams < 1.
    """
    if disable:
        return nn.Identity(), nn.Identity()
    begin: nn.Module = Expand(Axis(num_streams))
    end: nn.Module = Sum(Axis(num_streams))
    if add_stream_embed:
        begin = StreamEmbed(num_streams, required(dim, "add_stream_embed"), expand_to_streams=True)
    if add_attn_pool_reduce_stream:
        end = AttentionPoolReduceStream(required(dim, "add_attn_pool_reduce_stream"))
    return begin, end


def get_init_and_expand_reduce_stream_functions(
    num_streams: int,
    num_fracs: int = 1,
    dim: int | None = None,
    add_stream_embed: bool = False,
    add_attn_pool_reduce_stream: bool = False,
    disable: bool | None = None,
    sinkhorn_iters: int = 20,
    use_triton_sinkhorn: bool = False,
    **kwargs: Any,
) -> tuple[Callable[..., Any], nn.Module, nn.Module]:
    """A maker of connections, and the modules that begin and end their streams.

    The maker is ManifoldConstrainedHyperConnections with these arguments and kwargs filled in, or with `disable`
    Residual, which None means for one stream without fractions.
    """
    disable = (num_streams == 1 and num_fracs == 1) if disable is None else disable
    init = partial(
        Residual if disable else ManifoldConstrainedHyperConnections,
        num_streams,
        num_fracs=num_fracs,
        sinkhorn_iters=sinkhorn_iters,
        use_triton_sinkhorn=use_triton_sinkhorn,
        **kwargs,
    )
    ends = get_expand_reduce_stream_functions(num_streams, add_stream_embed, add_attn_pool_reduce_stream, dim, disable)
    return init if dim is None else partial(init, dim=dim), *ends


class ManifoldConstrainedHyperConnections(Constrained):
    """mHC as version 1 has it, on residuals ... s D. For the arguments see `Constrained`, and:

    Args:
        use_triton_sinkhorn: taken, and without effect: streammix's operator is used on every device, with the gradient
            of the rounds.
        mix_streams_before_norm: whether weights are made of streams that a learned matrix has mixed before the norm.
        package_fracs: whether fractions start as in the package, where all fractions of a branch's input start as one
            and the same fraction.

    Parameters: static_alpha (s f, v f + s f), dynamic_alpha_fn (p, D / f, v f + s f), pre_branch_scale (1),
    residual_scale (1), static_beta (s, f, 1), dynamic_beta_fn (D / f, f), h_post_scale (), norm.gamma (D / f), and
    maybe_mix_streams.weight (s, s, 1, 1). Rows and columns are in the order (stream, fraction), as v is (view,
    fraction).

    Call: ... s D -> ... s D.
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
        use_triton_sinkhorn: bool = False,
        mix_streams_before_norm: bool = False,
        package_fracs: bool = False,
    ) -> None:
        super().__init__(
            Axis(num_residual_streams),
            dim,
            branch=branch,
            add_branch_out_to_residual=add_branch_out_to_residual,
            num_input_views=num_input_views,
            depth_residual_fn=depth_residual_fn,
            num_fracs=num_fracs,
        )
        s, f, v = num_residual_streams, num_fracs, num_input_views
        identity = torch.eye(s, device="cpu").view(s, s, 1, 1)
        self.maybe_mix_streams = Weight(identity) if mix_streams_before_norm else None
        reads = start_of_reads(s, f, v, stream := first_stream(layer_index, s)).reshape(s * f, v * f)
        if package_fracs:
            reads = one_hot(stream, s * f).unsqueeze(-1).expand(s * f, v * f)
        self.alpha_parameters(reads, num_dynamic_alpha_proposals)
        if add_branch_out_to_residual:
            self.beta_parameters((s, f, 1), (dim // f, f))
        sinkhorn = log_domain_sinkhorn_knopps if log_domain_sinkhorn else sinkhorn_knopps
        self.constrain(residual_mix_constraint_fn, partial(sinkhorn, iters=sinkhorn_iters))
        self.after(dropout, residual_transform, forward_method_names)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        s, f = self.num_residual_streams, self.num_fracs
        made, beta = self.projected(x, x if self.maybe_mix_streams is None else self.mixed(x))
        pre, res = self.constrained(made + self.static_alpha.to(made.dtype).unsqueeze(-2))
        if beta is None:
            return pre, None, res
        beta = beta.unflatten(-2, (s, f)) + self.static_beta.to(beta.dtype)
        return pre, 2 * beta.mT.flatten(-3, -2).sigmoid(), res

    def row_weights(self) -> RowWeights | None:
        return super().row_weights() if self.maybe_mix_streams is None else None

    def mixed(self, x: Tensor) -> Tensor:
        """x (..., R, d), each fraction's streams mixed by maybe_mix_streams."""
        assert self.maybe_mix_streams is not None
        weight = self.maybe_mix_streams.weight.flatten(1).to(x.dtype)
        rows = x.unflatten(-2, (self.num_residual_streams, -1)).flatten(-2)
        return (weight @ rows).reshape(x.shape)


mHC = ManifoldConstrainedHyperConnections


class StreamEmbed(Started):
    """Adds a learned vector to each stream of ... s D, or with expand_to_streams to copies of a state ... D.

    Parameters: stream_embed (s, D), zero at first.
    """

    stream_embed: nn.Parameter

    def __init__(self, num_streams: int, dim: int, expand_to_streams: bool = False) -> None:
        super().__init__()
        self.layout = Axis(num_streams)
        self.num_streams, self.expand_to_streams = num_streams, expand_to_streams
        self.start("stream_embed", 0.0, (num_streams, dim))

    def forward(self, residuals: Tensor) -> Tensor:
        if self.expand_to_streams:
            residuals = copies(self.layout, residuals)
        return self.layout.unfold(residuals) + self.stream_embed


class AttentionPoolReduceStream(nn.Module):
    """Ends streams ... s D by a softmax over them of a projection, channel by channel.

    Parameters: to_attn_logits.weight (D, D), the identity at first.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_attn_logits = Weight(torch.eye(dim, device="cpu"))

    def forward(self, residuals: Tensor) -> Tensor:
        return pooled(residuals, self.to_attn_logits, -2)
