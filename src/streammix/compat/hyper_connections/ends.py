"""Where streams begin and end: copies and sums, learned embeddings, and a pooling by attention, in either layout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._checks import check_integer
from .layouts import Axis, Folded, Layout
from .starts import Started, Weight


class Expand(nn.Module):
    """Each stream a copy: b ... -> (b s) ..., or ... D -> ... s D."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        check_integer("num_streams", layout.streams, 1)
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        return copies(self.layout, x)


class Sum(nn.Module):
    """The sum of the streams: (b s) ... -> b ..., or ... s D -> ... D."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, residuals: Tensor) -> Tensor:
        if isinstance(self.layout, Axis):
            return self.layout.unfold(residuals).sum(-2)
        s, rows = self.layout.streams, residuals.shape[0]
        if rows % s:
            raise ValueError(f"residuals: got shape {tuple(residuals.shape)}; accepted: (batch * {s} streams, ...)")
        return residuals.unflatten(0, (rows // s, s)).sum(1)


class StreamEmbed(Started):
    """Adds a learned vector to each stream, so that copies are told apart.

    Args:
        num_streams, dim: s and D.
        channel_first: whether residuals are (b s) D ... .
        expand_to_streams: whether the input is one state, of which each stream is first made a copy.

    Parameters: stream_embed (s, D), zero at first.
    """

    stream_embed: nn.Parameter

    def __init__(
        self, num_streams: int, dim: int, channel_first: bool = False, expand_to_streams: bool = False
    ) -> None:
        super().__init__()
        self.layout: Layout = Folded(num_streams, channel_first)
        self.num_streams, self.channel_first, self.expand_to_streams = num_streams, channel_first, expand_to_streams
        self.start("stream_embed", 0.0, (num_streams, dim))

    def forward(self, residuals: Tensor) -> Tensor:
        if self.expand_to_streams:
            residuals = copies(self.layout, residuals)
        x = self.layout.unfold(residuals)
        embed = self.stream_embed.reshape(-1, *[1] * (x.ndim - 3), self.stream_embed.shape[-1])
        return self.layout.fold(x + embed)


class AttentionPoolReduceStream(nn.Module):
    """Ends streams by a softmax over them of a projection, channel by channel: sum_s softmax_s(x W')_s x_s.

    Args:
        num_streams, dim: s and D.
        channel_first: whether residuals are (b s) D ... .

    Parameters: to_attn_logits.weight (D, D), the identity at first.
    """

    def __init__(self, num_streams: int, dim: int, channel_first: bool = False) -> None:
        super().__init__()
        self.layout: Layout = Folded(num_streams, channel_first)
        self.num_streams, self.channel_first = num_streams, channel_first
        self.to_attn_logits = Weight(torch.eye(dim, device="cpu"))

    def forward(self, residuals: Tensor) -> Tensor:
        return self.layout.first(pooled(self.layout.unfold(residuals), self.to_attn_logits, self.layout.dim))


def copies(layout: Layout, x: Tensor) -> Tensor:
    """One state as equal streams."""
    if isinstance(layout, Axis):
        return x.unsqueeze(-2).repeat_interleave(layout.streams, -2)
    return x.repeat_interleave(layout.streams, 0)


def pooled(x: Tensor, to_attn_logits: Weight, dim: int) -> Tensor:
    """... s D -> ... D, the streams being in `dim`."""
    return (x * F.linear(x, to_attn_logits.weight).softmax(dim)).sum(dim)


def folded_ends(
    num_streams: int, add_stream_embed: bool, dim: int | None, disable: bool
) -> tuple[nn.Module, nn.Module]:
    """Modules that begin and end streams folded into the batch."""
    if disable:
        return nn.Identity(), nn.Identity()
    layout = Folded(num_streams)
    if not add_stream_embed:
        return Expand(layout), Sum(layout)
    return StreamEmbed(num_streams, required(dim, "add_stream_embed"), expand_to_streams=True), Sum(layout)


def required(dim: int | None, option: str) -> int:
    """dim, or an error that says what wants it."""
    if dim is None:
        raise ValueError(f"dim: got None; {option}=True accepts the streams' width")
    return dim
