"""The interface of a generator: from the state to logits, in float32 at least, whatever the streams' dtype."""

from dataclasses import dataclass

from torch import Tensor

from ..._parameters import AtLeastFloat32


@dataclass(frozen=True)
class Start:
    """Where a generator's parameters start.

    Plain numbers, because a tensor would be lost where a model is built on the meta device or by a loader.

    bias: every bias, in the order of the groups of logits.
    weight_std: standard deviation of the projection's weights.
    gate: of every gate.
    """

    bias: tuple[float, ...]
    weight_std: float = 0.0
    gate: float = 0.0

    @classmethod
    def at(cls, bias: Tensor, weight_std: float, gate: float) -> "Start":
        return cls(tuple(bias.tolist()), weight_std, gate)


class Generator(AtLeastFloat32):
    """Maps a state (..., n, C) to groups of logits, each (..., size): those of the read, the write and the mix mostly.

    Attributes:
        start: what `reset_parameters` sets the parameters to.
    """

    start: Start

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Set every parameter to its start, in place, on any device."""
        raise NotImplementedError
