"""Decoder layers of transformers' models, with one pass over the streams between two branches.

Each calls its branches as the model's own layer does; what lies between them is `opened`, `opened_after` and `written`.
"""

from typing import Any

import torch
from torch import Tensor

from ..functional import write
from .sites import opened, opened_after, written
from .swapping import Accelerated


class DeepseekV4Layer(Accelerated):
    def forward(self: Any, hidden_states: Tensor, input_ids: Tensor | None = None, **kwargs: Any) -> Tensor:
        site = opened(self.attn_hc, hidden_states)
        y, _ = self.self_attn(self.input_layernorm(site.u), **kwargs)
        site = opened_after(self.ffn_hc, site, y)
        y = self.mlp(self.post_attention_layernorm(site.u), input_ids=input_ids)
        return written(self, site, y)


class IndexedLayer(Accelerated):
    """What GLM-5.3 and Hy4 share: an attention that may choose tokens, whose choice is handed to the next layer."""

    def attend(self: Any, u: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        y, _, chosen = self.self_attn(hidden_states=u, **arguments)
        return y, chosen

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        prev_topk_indices: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        arguments = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "cache": cache,
            "use_cache": use_cache,
            "position_embeddings": position_embeddings,
            "prev_topk_indices": prev_topk_indices,
            **kwargs,
        }
        site = opened(self.attn_hc, hidden_states)
        y, chosen = self.attend(self.input_layernorm(site.u), arguments)
        site = opened_after(self.ffn_hc, site, y)
        y = self.mlp(self.post_attention_layernorm(site.u))
        return written(self, site, y), chosen


class Hy4Layer(IndexedLayer):
    pass


class Glm5NextLayer(IndexedLayer):
    """Some of whose layers have linear attention, which takes fewer arguments and chooses no tokens."""

    def attend(self: Any, u: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        if self.block_type != "linear_attention":
            return super().attend(u, arguments)
        others = ("position_ids", "use_cache", "position_embeddings", "prev_topk_indices")
        taken = {name: value for name, value in arguments.items() if name not in others}
        return self.self_attn(hidden_states=u, **taken), None


class Qwen4ExpLayer(Accelerated):
    """Streams side by side, (..., n C), unmixed. Sites, which read by gates for each channel, stay the model's own."""

    def forward(
        self: Any,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        conv_mask: Tensor | None = None,
        cache: Any = None,
        ple_input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if self.ple is not None:
            hidden_states = hidden_states + self.ple(hidden_states, ple_input_ids, cache, conv_mask=conv_mask)
        u, streams, post = self.attn_hyper_connection(hidden_states)
        if self.layer_type == "linear_attention":
            y = self.linear_attn(u, cache=cache, attention_mask=conv_mask, **kwargs)
        else:
            y, _ = self.self_attn(u, position_embeddings, attention_mask=attention_mask, cache=cache, **kwargs)
        u, streams, post = self.mlp_hyper_connection(added(streams, y, post))
        return added(streams, self.mlp(u), post)


def added(streams: Tensor, y: Tensor, post: Tensor) -> Tensor:
    """out_i = x_i + post_i y, streams (..., n C) side by side."""
    n = post.shape[-1]
    eye = torch.eye(n, dtype=torch.promote_types(post.dtype, torch.float32), device=post.device)
    return write(streams.unflatten(-1, (n, -1)), y, post, eye).flatten(-2)
