"""The package's two layouts of streams, and as what operators take them: with a dimension `dim` of streams, channels
last. Nothing is copied for it but channels that are not last."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Folded:
    """Streams folded into the batch, `(b s) ... D`, the stream being the fast index; or `(b s) D ...`, channels first.

    streams: s.
    channel_first: whether channels follow the batch.
    """

    streams: int
    channel_first: bool = False
    dim = 1

    def unfold(self, residuals: Tensor) -> Tensor:
        """(b s) ... D -> b s ... D, contiguous.

        Raises:
            ValueError: the first dimension is no multiple of s, or there is no dimension besides it.
        """
        s, shape = self.streams, residuals.shape
        if len(shape) < 2 or shape[0] % s:
            last = "D, ..." if self.channel_first else "..., D"
            raise ValueError(
                f"residuals: got shape {tuple(shape)}; accepted: (batch * {s} streams, {last}), which the expand"
                " function makes"
            )
        return self.last(residuals).unflatten(0, (shape[0] // s, s)).contiguous()

    def fold(self, x: Tensor) -> Tensor:
        """b s ... D -> (b s) ... D."""
        return self.first(x.flatten(0, 1))

    def last(self, x: Tensor) -> Tensor:
        """b D ... -> b ... D, where channels are first."""
        return x.movedim(1, -1) if self.channel_first else x

    def first(self, x: Tensor, batch: int = 1) -> Tensor:
        """b ... D -> b D ..., where channels are first; `batch` dimensions stay before them."""
        return x.movedim(-1, batch) if self.channel_first else x


@dataclass(frozen=True)
class Axis:
    """Streams on an axis of their own, `... s D`.

    streams: s.
    """

    streams: int
    dim = -2

    def unfold(self, residuals: Tensor) -> Tensor:
        """... s D, checked.

        Raises:
            ValueError: the next to last dimension is not s.
        """
        if residuals.ndim < 2 or residuals.shape[-2] != self.streams:
            raise ValueError(
                f"residuals: got shape {tuple(residuals.shape)}; accepted: (..., {self.streams}, D), which the expand"
                " function makes"
            )
        return residuals

    def fold(self, x: Tensor) -> Tensor:
        return x

    def last(self, x: Tensor) -> Tensor:
        return x

    def first(self, x: Tensor, batch: int = 1) -> Tensor:
        return x


Layout = Folded | Axis
