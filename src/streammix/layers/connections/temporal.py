"""A branch's output and its recent past, as orthogonal directions to write along."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ... import ops
from ..._checks import is_integer
from ..._parameters import AtLeastFloat32, assign, parameter_dtype
from ..._precision import full_precision
from ...ops.eager.temporal import temporal_basis


@dataclass
class Past:
    """The last outputs of a branch, as many as its longest filter looks back."""

    y: Float[Tensor, "*batch C"] | None = None


class Filters(nn.ParameterList):
    """The weights of causal filters, each (length, C); zero at the start."""

    def reset_parameters(self) -> None:
        for weight in self:
            assign(weight, 0.0)


class TemporalBasis(AtLeastFloat32):
    """y and causal depthwise convolutions of y over time, made orthogonal (xHC, arXiv 2607.14530).

        g_j[t] = sum_i w_j[i] * y[t - i],   i = 0 .. length_j - 1,  y = 0 before the first token
        v_1 = y,   v_{j+1} = g_j - sum_{i <= j} (<g_j, v_i> / <v_i, v_i>) v_i        modified Gram-Schmidt, per token

    Args:
        dim: C.
        lengths: of the filters, in tokens.
        time_axis: of y, which is not the last.

    Attributes:
        size: 1 + the number of filters.
        past: what came before the tokens of the next call, where a text comes in parts; see `decoding`.

    Parameters:
        filters.j (length_j, C), zero at the start: a new basis is y alone.

    Raises:
        ValueError: lengths that are not integers >= 1, or the last axis. At the call: y has no such axis.
        RuntimeError: one token came, without gradient or in evaluation mode, and nothing keeps what preceded it.

    Call: basis(y) with y (..., C) -> (..., size, C), in float32 at least.
    """

    def __init__(self, dim: int, lengths: Sequence[int] = (), time_axis: int = -2) -> None:
        super().__init__()
        if not all(is_integer(length, 1, 2**31) for length in lengths):
            raise ValueError(f"temporal: got filter lengths {tuple(lengths)!r}; accepted: integers >= 1")
        if isinstance(time_axis, bool) or not isinstance(time_axis, int) or time_axis == -1:
            raise ValueError(f"time_axis: got {time_axis!r}; accepted: an integer other than -1, the features' axis")
        self.size, self.time_axis = 1 + len(lengths), time_axis
        self.filters = Filters(torch.empty(length, dim, dtype=parameter_dtype()) for length in lengths)
        self.past: Past | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.filters.reset_parameters()

    def forward(self, y: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch basis C"]:
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        if not len(self.filters):
            return y.unsqueeze(-2)
        axis = self._axis(y)
        with full_precision(y):
            known = self._with_past(y, axis).movedim(axis, -2)
            longest = max(map(len, self.filters))
            filters = torch.stack([F.pad(w.to(y.dtype), (0, 0, 0, longest - len(w))) for w in self.filters])
            # The operator takes no part in vmap.
            make = temporal_basis if torch._C._are_functorch_transforms_active() else ops.temporal_basis
            return make(known, filters, y.shape[axis]).movedim(-3, axis)

    def _axis(self, y: Tensor) -> int:
        axis = self.time_axis + y.ndim if self.time_axis < 0 else self.time_axis
        if not 0 <= axis < y.ndim - 1:
            raise ValueError(
                f"y: got shape {tuple(y.shape)} from the branch; causal filters need a time axis {self.time_axis}"
                " before the features"
            )
        return axis

    def _with_past(self, y: Tensor, axis: int) -> Tensor:
        """y after what is kept of the tokens before it; its own last tokens are kept for the next call."""
        if self.past is None:
            if y.shape[axis] == 1 and not (self.training and torch.is_grad_enabled()):
                raise RuntimeError(
                    "xhc: got one token, whose causal filters need the tokens before it; decode within"
                    " `with streammix.layers.decoding(model):`, which keeps them (a text of one token, too)"
                )
            return y
        known = y if self.past.y is None else torch.cat([self.past.y, y], axis)
        back = min(max(map(len, self.filters)) - 1, known.shape[axis])
        self.past.y = known.detach().narrow(axis, known.shape[axis] - back, back)
        return known


@contextmanager
def decoding(model: nn.Module) -> Iterator[None]:
    """Within the block a text may come in parts, token by token say: each call continues the one before.

        with streammix.layers.decoding(model):
            logits = model(prompt, cache)
            ...                                    # model(token, cache), one token a call

    Only connections with causal filters (recipe "xhc") need it; for models without them the block does nothing. The
    batch must stay the same from call to call, and gradients do not pass from one call to an earlier one.
    """
    bases = [module for module in model.modules() if isinstance(module, TemporalBasis)]
    before = [basis.past for basis in bases]
    for basis in bases:
        basis.past = Past()
    try:
        yield
    finally:
        for basis, past in zip(bases, before):
            basis.past = past
