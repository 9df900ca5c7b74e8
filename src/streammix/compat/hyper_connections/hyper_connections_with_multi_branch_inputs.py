"""HyperConnections with several inputs to the branch, or to several branches, each output written by itself."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..._checks import check_integer
from ...layers.connections.combine import combine
from .dynamic import spread, weights
from .ends import StreamEmbed, folded_ends
from .layouts import Folded
from .norm import RMSNorm
from .plain import Residual
from .site import Site, beside_identity, first_stream
from .uses import with_first

__all__ = [
    "HyperConnections",
    "RMSNorm",
    "Residual",
    "StreamEmbed",
    "get_expand_reduce_stream_functions",
    "get_init_and_expand_reduce_stream_functions",
]

Branches = Callable[..., Any] | Sequence[Callable[..., Any]]


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


class HyperConnections(Site):
    """i weighted sums of the streams go through one branch or are divided among several; each output is written with
    weights of its own. For the rest see `hyper_connections.HyperConnections`.

    Args:
        num_residual_streams, dim, layer_index, tanh, channel_first, dropout: as there.
        branch: a module, or several, each getting (i / branches) of the inputs.
        num_branch_inputs: i. A branch gets its inputs in the batch, (i b) ... D.

    Parameters: static_beta (s, i), static_alpha (s, i + s), dynamic_alpha_fn (D, i + s), dynamic_alpha_scale (),
    dynamic_beta_fn (D, i), dynamic_beta_scale (), norm.gamma (D).

    Raises:
        ValueError: i is no multiple of the number of branches, or see there.
        TypeError: at the call, one of several branches returns no tensor.

    Call: (b s) ... D -> (b s) ... D.
    """

    static_alpha: nn.Parameter
    static_beta: nn.Parameter
    dynamic_alpha_fn: nn.Parameter
    dynamic_alpha_scale: nn.Parameter
    dynamic_beta_fn: nn.Parameter
    dynamic_beta_scale: nn.Parameter
    get_expand_reduce_stream_functions = staticmethod(get_expand_reduce_stream_functions)
    get_init_and_expand_reduce_stream_functions = staticmethod(get_init_and_expand_reduce_stream_functions)

    def __init__(
        self,
        num_residual_streams: int,
        *,
        dim: int,
        branch: nn.Module | tuple[nn.Module, ...] | list[nn.Module] | None = None,
        layer_index: int | None = None,
        tanh: bool = True,
        channel_first: bool = False,
        dropout: float = 0.0,
        num_branch_inputs: int = 1,
    ) -> None:
        super().__init__(Folded(num_residual_streams, channel_first), dim)
        check_integer("num_branch_inputs", num_branch_inputs, 1)
        s, i = num_residual_streams, num_branch_inputs
        self.channel_first, self.num_branch_inputs = channel_first, i
        self.branches: nn.ModuleList | None = None
        if branch is not None:
            self.branches = nn.ModuleList([branch] if isinstance(branch, nn.Module) else branch)
            check_share(i, len(self.branches))
        self.act = nn.Tanh() if tanh else nn.Identity()
        self.norm = RMSNorm(dim)
        self.start("static_beta", 1.0, (s, i))
        self.start("static_alpha", beside_identity(start_of_inputs(s, i, layer_index)))
        self.start("dynamic_alpha_fn", 0.0, (dim, s + i))
        self.start("dynamic_alpha_scale", 1e-2)
        self.start("dynamic_beta_fn", 0.0, (dim, i))
        self.start("dynamic_beta_scale", 1e-2)
        self.dropout = nn.Dropout(dropout)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        s, i = self.num_residual_streams, self.num_branch_inputs
        weight = torch.cat([self.dynamic_alpha_fn, self.dynamic_beta_fn], -1)
        scale = spread((self.dynamic_alpha_scale, i + s), (self.dynamic_beta_scale, i))
        alpha, beta = weights(x, self.norm.gamma, weight, self.act, scale, self.static_alpha, i + s, self.rows_dim)
        return alpha[..., :i].mT, beta + self.static_beta.to(beta.dtype), alpha[..., i:].mT

    def read(self, x: Tensor, pre: Tensor) -> Tensor:
        """(i b) ... D, the inputs being the slow index."""
        if self.num_branch_inputs == 1:
            return super().read(x, pre)
        return self.layout.first(combine(pre, [self.by_token(x)], x.dtype).movedim(-2, 0).flatten(0, 1))

    def split(self, branch_output: Tensor) -> Tensor:
        """(i b) ... D -> b ... i D."""
        y = self.layout.last(branch_output)
        i, rows = self.num_branch_inputs, y.shape[0]
        if rows % i or y.shape[-1] != self.dim:
            raise ValueError(
                f"branch: returned shape {tuple(branch_output.shape)}; accepted: ({i} inputs * batch) with {self.dim}"
                " channels"
            )
        return y.unflatten(0, (i, rows // i)).movedim(0, -2)

    def forward(self, residuals: Tensor, *branch_args: Any, **branch_kwargs: Any) -> Any:
        u, finish = self.connect(residuals)
        if self.branches is None:
            return u, lambda output: with_first(output, finish)
        return with_first(through(self.branches, u, branch_args, branch_kwargs), finish)

    def decorate_branch(self, branch: Branches) -> Callable[..., Any]:  # type: ignore[override]
        """As `Wrapped.decorate_branch`, also for several branches."""
        if self.branches is not None:
            raise ValueError("branch: this connection was made with one; decorate_branch accepts connections without")
        branches = [branch] if callable(branch) else list(branch)
        check_share(self.num_branch_inputs, len(branches))

        def forward_and_add_residual(residual: Tensor, *args: Any, **kwargs: Any) -> Any:
            u, finish = self.connect(residual)
            return with_first(through(branches, u, args, kwargs), finish)

        return forward_and_add_residual


def start_of_inputs(s: int, i: int, layer_index: int | None) -> Tensor:
    """(s, i): each input reads a stream of its own, as long as there are so many."""
    offset = first_stream(layer_index, s * i) * i
    with torch.device("cpu"):
        return ((torch.arange(s).unsqueeze(-1) + torch.arange(i) + offset) % s == 0).float()


def through(branches: Any, u: Tensor, args: Any, kwargs: Any) -> Any:
    """The branches' outputs, one after the other in the batch; one branch may return a tree.

    Raises:
        TypeError: one of several returns no tensor.
    """
    outputs = [branch(part, *args, **kwargs) for branch, part in zip(branches, u.chunk(len(branches)))]
    if len(outputs) == 1:
        return outputs[0]
    for output in outputs:
        if not isinstance(output, Tensor):
            raise TypeError(f"branch: one of several returned a {type(output).__name__}; accepted: tensors")
    return torch.cat(outputs)


def check_share(inputs: int, branches: int) -> None:
    """Raise ValueError unless every branch gets as many inputs."""
    if branches < 1 or inputs % branches:
        raise ValueError(f"num_branch_inputs: got {inputs} for {branches} branches; accepted: multiples of {branches}")
