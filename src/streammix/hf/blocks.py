"""Layers of plain Transformers, with their residual additions replaced by sites on streams.

Each mixin says what its layers' branches are, norms and dropout included, as the model's own forward has them. A new
architecture is one entry in BLOCKS, and a mixin if its layers are of another form.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from ..layers import HyperConnection
from ..layers.connections import Connection
from .swapping import Swapped

Arguments = dict[str, Any]
Branch = Callable[[Any, Tensor, Arguments], Tensor]


class Streamed(Swapped):
    """A layer of one or more sites, (..., n, C) -> (..., n, C); the first of a model makes streams, the last ends them.

    positional: names of the arguments after the hidden states that the model passes without naming them.
    """

    positional: ClassVar[tuple[str, ...]] = ()

    def branches(self) -> dict[str, Branch]:
        """Name of the site's attribute -> the branch."""
        raise NotImplementedError

    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        arguments = dict(zip(self.positional, args, strict=False)) | kwargs
        branches = self.branches()
        sites = [self._modules[name] for name in branches]
        x = sites[0].begin(hidden_states) if self.begins_streams else hidden_states
        x = run(sites, [partial(branch, self, arguments=arguments) for branch in branches.values()], x)
        return self.hc_end(x) if "hc_end" in self._modules else x


def run(sites: list[Connection], branches: list[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """The streams after these sites; with one pass over them between two branches where the sites allow it."""
    if not all(site.fuses for site in sites):
        for site, branch in zip(sites, branches):
            u, finish = site.connect(x)
            x = finish(branch(u))
        return x
    fusing = cast("list[HyperConnection]", sites)
    opened = fusing[0].open(x)
    for branch, following in zip(branches, fusing[1:]):
        opened = following.open_after(opened, branch(opened.u))
    return opened.finish(branches[-1](opened.u))


class PreNorm(Streamed):
    """x + attention(norm x), then x + mlp(norm x): Llama and its like."""

    def attend(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.self_attn(hidden_states=self.input_layernorm(u), **arguments)[0]

    def feed_forward(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.mlp(self.post_attention_layernorm(u))

    def branches(self) -> dict[str, Branch]:
        return {"hc_attn": type(self).attend, "hc_mlp": type(self).feed_forward}


class Sandwich(PreNorm):
    """Norms before and after both branches: Gemma 2 and 3."""

    def attend(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.post_attention_layernorm(PreNorm.attend(self, u, arguments))

    def feed_forward(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(u)))


class PostNorm(PreNorm):
    """Norms after both branches: OLMo 2 and 3."""

    def attend(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.post_attention_layernorm(self.self_attn(hidden_states=u, **arguments)[0])

    def feed_forward(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.post_feedforward_layernorm(self.mlp(u))


class GPT2(PreNorm):
    positional = ("cache", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", "use_cache")

    def attend(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        own = {name: value for name, value in arguments.items() if not name.startswith("encoder_")}
        return self.attn(self.ln_1(u), **own)[0]

    def feed_forward(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.mlp(self.ln_2(u))


class GPTNeoX(PreNorm):
    """Both branches read the same state, as GPT-NeoX has it by default, or one reads what the other has written."""

    def attend(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.post_attention_dropout(self.attention(self.input_layernorm(u), **arguments)[0])

    def feed_forward(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.post_mlp_dropout(self.mlp(self.post_attention_layernorm(u)))

    def both(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.attend(u, arguments) + self.feed_forward(u, arguments)

    def branches(self: Any) -> dict[str, Branch]:
        return {"hc_block": type(self).both} if self.use_parallel_residual else PreNorm.branches(self)


class Phi(Streamed):
    """Both branches read the same normalised state."""

    def both(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        u = self.input_layernorm(u)
        attended = self.resid_dropout(self.self_attn(hidden_states=u, **arguments)[0])
        return attended + self.resid_dropout(self.mlp(u))

    def branches(self) -> dict[str, Branch]:
        return {"hc_block": type(self).both}


class ViT(PreNorm):
    positional = ("attention_mask",)

    def attend(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.dropout(self.attention(self.layernorm_before(u), **arguments)[0])

    def feed_forward(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.dropout(self.mlp(self.layernorm_after(u)))


class TimmViT(PreNorm):
    """timm's blocks: a scale for every channel, and stochastic depth, after each branch."""

    positional = ("attn_mask", "is_causal")

    def attend(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.drop_path1(self.ls1(self.attn(self.norm1(u), **arguments)))

    def feed_forward(self: Any, u: Tensor, arguments: Arguments) -> Tensor:
        return self.drop_path2(self.ls2(self.mlp(self.norm2(u))))


#: Model type in transformers -> its layer's class and the mixin.
BLOCKS: dict[str, tuple[str, type[Streamed]]] = {
    "llama": ("LlamaDecoderLayer", PreNorm),
    "qwen2": ("Qwen2DecoderLayer", PreNorm),
    "qwen3": ("Qwen3DecoderLayer", PreNorm),
    "mistral": ("MistralDecoderLayer", PreNorm),
    "gemma": ("GemmaDecoderLayer", PreNorm),
    "gemma2": ("Gemma2DecoderLayer", Sandwich),
    "gemma3": ("Gemma3DecoderLayer", Sandwich),
    "olmo": ("OlmoDecoderLayer", PreNorm),
    "olmo2": ("Olmo2DecoderLayer", PostNorm),
    "olmo3": ("Olmo3DecoderLayer", PostNorm),
    "gpt2": ("GPT2Block", GPT2),
    "gpt_neox": ("GPTNeoXLayer", GPTNeoX),
    "phi": ("PhiDecoderLayer", Phi),
    "vit": ("ViTLayer", ViT),
}
#: The same of timm, whose vision transformers share one class.
TIMM: dict[str, tuple[str, type[Streamed]]] = {"vision_transformer": ("Block", TimmViT)}


def mixin_of(layer: nn.Module) -> type[Streamed] | None:
    """What turns this layer into one on streams, or None. Exactly these classes: a subclass may compute otherwise."""
    cls = type(layer)
    known = [(f"transformers.models.{name}.modeling_{name}", *entry) for name, entry in BLOCKS.items()]
    known += [(f"timm.models.{name}", *entry) for name, entry in TIMM.items()]
    for module, layer_class, mixin in known:
        if (cls.__module__, cls.__name__) == (module, layer_class):
            return mixin
    return None


def stacks(model: nn.Module) -> Iterator[tuple[Any, nn.ModuleList | nn.Sequential]]:
    """Every list of layers that are known here, with the model that runs it."""
    for owner in model.modules():
        for child in owner.children():
            if isinstance(child, nn.ModuleList | nn.Sequential) and len(child) and all(map(mixin_of, child)):
                yield owner, child


def width(owner: Any) -> int:
    """C of the layers that this model runs: transformers' models have it in a config, timm's as an attribute."""
    config = getattr(owner, "config", None)
    return int(owner.embed_dim if config is None else config.hidden_size)
