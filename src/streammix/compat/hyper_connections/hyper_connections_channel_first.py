"""HyperConnections on images, (b s) D H W, with 1 x 1 convolutions as parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .dynamic import spread, weights
from .ends import folded_ends
from .layouts import Folded
from .norm import RMSNorm as StreamNorm
from .plain import Residual
from .site import Site, beside_identity, first_stream, one_hot
from .starts import Weight

__all__ = [
    "HyperConnections",
    "RMSNorm",
    "Residual",
    "get_expand_reduce_stream_functions",
    "get_init_and_expand_reduce_stream_functions",
]


def get_expand_reduce_stream_functions(num_streams: int, disable: bool = False) -> tuple[nn.Module, nn.Module]:
    """Modules that begin and end the streams, see `hyper_connections`."""
    return folded_ends(num_streams, False, None, disable)


def get_init_and_expand_reduce_stream_functions(
    num_streams: int, disable: bool | None = None
) -> tuple[Callable[..., Any], nn.Module, nn.Module]:
    """A maker of connections (Residual, if disabled), and the modules that begin and end their streams."""
    disable = num_streams == 1 if disable is None else disable
    init = partial(Residual if disable else HyperConnections, num_streams)
    return init, *folded_ends(num_streams, False, None, disable)


class RMSNorm(StreamNorm):
    """x / |x| * sqrt(D) * (gamma + 1) over the channels of (b, D, H, W). Parameters: gamma (D, 1, 1)."""

    axis = 1

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.start("gamma", 0.0, (dim, 1, 1))


class HyperConnections(Site):
    """HyperConnections with channels first; for the formula see `hyper_connections.HyperConnections`.

    Args:
        num_residual_streams, dim, branch, layer_index, tanh, dropout: as there.
        channel_first: True; nothing else is meant.

    Parameters: static_alpha (s, 1 + s), dynamic_alpha_fn.weight (1 + s, D, 1, 1), dynamic_alpha_scale (), static_beta
    (s), dynamic_beta_fn.0.weight (1, D, 1, 1), dynamic_beta_scale (), norm.gamma (D, 1, 1).

    Raises:
        ValueError: channel_first is False, or see there.

    Call: (b s) D ... -> (b s) D ... .
    """

    static_alpha: nn.Parameter
    static_beta: nn.Parameter
    dynamic_alpha_scale: nn.Parameter
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
        channel_first: bool = True,
        dropout: float = 0.0,
    ) -> None:
        if not channel_first:
            raise ValueError(
                "channel_first: got False; accepted here: True; hyper_connections.HyperConnections has both"
            )
        super().__init__(Folded(num_residual_streams, channel_first=True), dim, branch=branch)
        s = num_residual_streams
        self.channel_first = True
        self.act = nn.Tanh() if tanh else nn.Identity()
        self.norm = RMSNorm(dim)
        self.start("static_beta", 1.0, (s,))
        self.start("static_alpha", beside_identity(one_hot(first_stream(layer_index, s), s).unsqueeze(-1)))
        self.dynamic_alpha_fn = Weight(0.0, (s + 1, dim, 1, 1))
        self.dynamic_beta_fn = nn.Sequential(Weight(0.0, (1, dim, 1, 1)))
        self.start("dynamic_alpha_scale", 1e-2)
        self.start("dynamic_beta_scale", 1e-2)
        self.dropout = nn.Dropout(dropout)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        s = self.num_residual_streams
        (of_beta,) = self.dynamic_beta_fn
        weight = torch.cat([self.dynamic_alpha_fn.weight, of_beta.weight]).flatten(1).mT  # type: ignore[list-item]
        scale = spread((self.dynamic_alpha_scale, s + 1), (self.dynamic_beta_scale, 1))
        alpha, beta = weights(x, self.norm.gamma, weight, self.act, scale, self.static_alpha, s + 1, self.rows_dim)
        return alpha[..., :1].mT, beta + self.static_beta.to(beta.dtype).unsqueeze(-1), alpha[..., 1:].mT
