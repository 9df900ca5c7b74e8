"""The package's example: a vision transformer whose residuals are its second mHC."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._checks import check_name
from .mHCv2 import mHC

__all__ = ["Attention", "FeedForward", "Transformer", "ViT"]

ONE_PROPOSAL: Mapping[str, Any] = MappingProxyType({"num_dynamic_alpha_proposals": 1})


class FeedForward(nn.Module):
    """LayerNorm, a hidden layer with GELU, and back: (..., dim) -> (..., dim). Parameters: net's."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = (nn.Linear(dim, hidden_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden_dim, dim))
        self.net = nn.Sequential(nn.LayerNorm(dim), *hidden, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Attention(nn.Module):
    """LayerNorm and attention of all tokens to all: (b, tokens, dim) -> the same. Parameters: norm, to_qkv, to_out."""

    def __init__(self, dim: int, heads: int = 8, dim_head: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        one_head = heads == 1 and dim_head == dim
        self.to_out = nn.Identity() if one_head else nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropped = self.dropout.p if self.training else 0.0
        return self.to_out(F.scaled_dot_product_attention(q, k, v, dropout_p=dropped).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """`depth` times attention and feed-forward, each a branch of an mHC, and a LayerNorm: (b, tokens, dim) -> the same.

    Args:
        mhc_kwargs: for `mHC.get_init_and_expand_reduce_stream_functions`.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        mlp_dim: int,
        dropout: float = 0.0,
        num_residual_streams: int = 4,
        mhc_kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        init, *ends = mHC.get_init_and_expand_reduce_stream_functions(num_residual_streams, **mhc_kwargs)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    init(dim=dim, branch=Attention(dim, heads, dim_head, dropout)),
                    init(dim=dim, branch=FeedForward(dim, mlp_dim, dropout)),
                )
            )
            for _ in range(depth)
        )
        self.expand_streams, self.reduce_streams = ends

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand_streams(x)
        for layer in self.layers:
            for connection in cast("nn.ModuleList", layer):
                x = connection(x)
        return self.norm(self.reduce_streams(x))


class Patches(nn.Module):
    """Images (b, c, h p, w q) as rows of patches, (b, h w, p q c)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, image: Tensor) -> Tensor:
        b, c, h, w = image.shape
        p, q = self.height, self.width
        return image.reshape(b, c, h // p, p, w // q, q).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * q * c)


class ViT(nn.Module):
    """Logits (b, num_classes) of images (b, channels, height, width).

    Args:
        image_size, patch_size: pixels, or a pair of height and width.
        pool: "cls", an extra token, or "mean".
        mhc_kwargs: see Transformer.

    Raises:
        ValueError: patches do not divide the image, or pool is neither.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        num_classes: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        pool: str = "cls",
        channels: int = 3,
        dim_head: int = 64,
        dropout: float = 0.0,
        emb_dropout: float = 0.0,
        num_residual_streams: int = 4,
        mhc_kwargs: Mapping[str, Any] = ONE_PROPOSAL,
    ) -> None:
        super().__init__()
        height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
        p, q = patch_size if isinstance(patch_size, tuple) else (patch_size, patch_size)
        if height % p or width % q:
            raise ValueError(f"patch_size: got {patch_size}; accepted with image_size={image_size}: what divides it")
        check_name("pool", pool, ("cls", "mean"))
        self.pool = pool
        extra, size = int(pool == "cls"), p * q * channels
        self.to_patch_embedding = nn.Sequential(
            Patches(p, q), nn.LayerNorm(size), nn.Linear(size, dim), nn.LayerNorm(dim)
        )
        self.cls_token = nn.Parameter(torch.randn(extra, dim))
        self.pos_embedding = nn.Parameter(torch.randn((height // p) * (width // q) + extra, dim))
        self.dropout = nn.Dropout(emb_dropout)
        self.transformer = Transformer(dim, depth, heads, dim_head, mlp_dim, dropout, num_residual_streams, mhc_kwargs)
        self.to_latent = nn.Identity()
        self.mlp_head = nn.Linear(dim, num_classes)

    def forward(self, img: Tensor) -> Tensor:
        x = self.to_patch_embedding(img)
        x = torch.cat([self.cls_token.expand(len(img), -1, -1), x], 1)
        x = self.transformer(self.dropout(x + self.pos_embedding[: x.shape[1]]))
        x = x.mean(1) if self.pool == "mean" else x[:, 0]
        return self.mlp_head(self.to_latent(x))
