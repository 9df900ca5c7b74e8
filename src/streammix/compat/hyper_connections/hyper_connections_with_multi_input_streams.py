"""HyperConnections whose branch takes further arguments that come in streams, and are read as the residuals are."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ... import functional
from .ends import folded_ends
from .layouts import Folded
from .norm import RMSNorm, projected
from .plain import Residual
from .site import Site, beside_identity, first_stream, one_hot
from .starts import Started, Weight
from .uses import with_first

__all__ = [
    "HyperConnections",
    "InputPathType",
    "ProjActScale",
    "RMSNorm",
    "Residual",
    "get_expand_reduce_stream_functions",
    "get_init_and_expand_reduce_stream_functions",
]

#: Where a branch has a further argument in streams: its position, 1 being the first after the residuals, or its name.
InputPathType = int | str


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


class ProjActScale(Started):
    """act(x W') * scale. Parameters: proj.weight (dim_out, dim), zero at first, and scale ()."""

    scale: nn.Parameter

    def __init__(
        self,
        dim: int,
        dim_out: int | None,
        activation: nn.Module | None = None,
        scale_init: float = 1e-2,
        squeeze_output: bool = False,
    ) -> None:
        super().__init__()
        self.proj = Weight(0.0, (dim if dim_out is None else dim_out, dim))
        self.act = nn.Identity() if activation is None else activation
        self.start("scale", scale_init)
        self.squeeze_output = squeeze_output

    def forward(self, x: Tensor) -> Tensor:
        return self.squeezed(self.act(F.linear(x, self.proj.weight)) * self.scale)

    def of_normed(self, x: Tensor, gamma: Tensor, dim: int) -> Tensor:
        """`forward` of RMSNorm(x), in float32 at least; x has its rows in `dim`, and what is returned next to last."""
        made = self.act(projected(x, gamma, self.proj.weight.mT, dim))
        return self.squeezed(made * self.scale.to(made.dtype))

    def squeezed(self, made: Tensor) -> Tensor:
        return made.squeeze(-1) if self.squeeze_output else made


class HyperConnections(Site):
    """HyperConnections with further inputs in streams, each read by weights of its own; only the residuals are written.

    Args:
        num_residual_streams, dim, branch, layer_index, tanh, channel_first, dropout: see
            `hyper_connections.HyperConnections`.
        additional_input_paths: where the branch has such inputs, each an InputPathType or a pair of one and the width
            of those streams, if it is not dim.

    Parameters: static_alpha (s, 1 + s), static_beta (s), norm.gamma (D), dynamic_alpha_and_branch_input.proj.weight (1
    + s, D) and .scale (), dynamic_beta.proj.weight (1, D) and .scale (); for the k-th further input additional_norms.k
    .gamma, additional_to_dynamic_input.k.proj.weight and .scale, additional_static_input.k (s).

    Raises:
        ValueError: a position < 1, or numbers that do not fit together.
        TypeError: at the call, a further input is missing or no tensor.

    Call: (b s) ... D and the branch's arguments -> (b s) ... D. Without a branch: ((arguments, keywords), add_residual)
    where arguments begin with the branch's input.
    """

    static_alpha: nn.Parameter
    static_beta: nn.Parameter
    get_expand_reduce_stream_functions = staticmethod(get_expand_reduce_stream_functions)
    get_init_and_expand_reduce_stream_functions = staticmethod(get_init_and_expand_reduce_stream_functions)

    def __init__(
        self,
        num_residual_streams: int,
        *,
        dim: int,
        additional_input_paths: Sequence[InputPathType | tuple[InputPathType, int]] | None = None,
        branch: Callable[..., Any] | None = None,
        layer_index: int | None = None,
        tanh: bool = True,
        channel_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(Folded(num_residual_streams, channel_first), dim, branch=branch)
        s = num_residual_streams
        self.channel_first = channel_first
        act = nn.Tanh() if tanh else nn.Identity()
        self.norm = RMSNorm(dim)
        reads = one_hot(first_stream(layer_index, s), s)
        self.dynamic_alpha_and_branch_input = ProjActScale(dim, s + 1, activation=act)
        self.start("static_alpha", beside_identity(reads.unsqueeze(-1)))
        self.dynamic_beta = ProjActScale(dim, 1, activation=act, squeeze_output=True)
        self.start("static_beta", 1.0, (s,))
        paths = [path if isinstance(path, tuple) else (path, dim) for path in additional_input_paths or ()]
        for path, _ in paths:
            if isinstance(path, bool) or not isinstance(path, int | str) or (isinstance(path, int) and path < 1):
                raise ValueError(f"additional_input_paths: got {path!r}; accepted: names, and positions >= 1")
        self.additional_input_paths = paths
        self.additional_norms = nn.ModuleList(RMSNorm(width) for _, width in paths)
        self.additional_to_dynamic_input = nn.ModuleList(
            ProjActScale(width, 1, activation=act, squeeze_output=True) for _, width in paths
        )
        self.additional_static_input = Started()
        for index in range(len(paths)):
            self.additional_static_input.start(str(index), reads)
        self.dropout = nn.Dropout(dropout)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        alpha = self.dynamic_alpha_and_branch_input.of_normed(x, self.norm.gamma, self.rows_dim)
        alpha = alpha + self.static_alpha.to(alpha.dtype)
        beta = self.dynamic_beta.of_normed(x, self.norm.gamma, self.rows_dim)
        return alpha[..., :1].mT, (beta + self.static_beta.to(beta.dtype)).unsqueeze(-1), alpha[..., 1:].mT

    def width_connection(  # type: ignore[override]
        self, residuals: Tensor, *branch_args: Any, **branch_kwargs: Any
    ) -> tuple[tuple[list[Any], dict[str, Any]], Tensor, dict[str, Tensor | None]]:
        """As `Site.width_connection`, with all of the branch's arguments in place of its input."""
        u, mixed, more = super().width_connection(residuals)
        return self.with_inputs(u, branch_args, branch_kwargs), mixed, more

    def forward(self, residuals: Tensor, *branch_args: Any, **branch_kwargs: Any) -> Any:
        u, finish = self.connect(residuals)
        arguments, keywords = self.with_inputs(u, branch_args, branch_kwargs)
        branch: Callable[..., Any] | None = self.branch
        if branch is None:
            return (arguments, keywords), lambda output: with_first(output, finish)
        return with_first(branch(*arguments, **keywords), finish)

    def decorate_branch(self, branch: Callable[..., Any]) -> Callable[..., Any]:
        if self.branch is not None:
            raise ValueError("branch: this connection was made with one; decorate_branch accepts connections without")

        def forward_and_add_residual(residual: Tensor, *args: Any, **kwargs: Any) -> Any:
            u, finish = self.connect(residual)
            arguments, keywords = self.with_inputs(u, args, kwargs)
            return with_first(branch(*arguments, **keywords), finish)

        return forward_and_add_residual

    def with_inputs(self, u: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The branch's arguments, u the first of them, those in streams having been read."""
        arguments, keywords = [u, *args], dict(kwargs)
        for index, (path, width) in enumerate(self.additional_input_paths):
            given: Any = arguments if isinstance(path, int) else keywords
            missing = path >= len(arguments) if isinstance(path, int) else path not in keywords
            if missing or not isinstance(given[path], Tensor):
                got = "nothing" if missing else type(given[path]).__name__
                raise TypeError(f"additional input {path!r}: got {got}; accepted: a tensor of streams {width} wide")
            given[path] = self.one_of(given[path], index)
        return arguments, keywords

    def one_of(self, streams: Tensor, index: int) -> Tensor:
        """The weighted sum of further streams number `index`."""
        x = self.layout.unfold(streams)
        norm: Any = self.additional_norms[index]
        weigh: Any = self.additional_to_dynamic_input[index]
        pre = weigh.of_normed(x, norm.gamma, self.layout.dim)
        static = self.additional_static_input.get_parameter(str(index))
        return self.layout.first(functional.read(x, pre + static.to(pre.dtype), dim=self.layout.dim))
