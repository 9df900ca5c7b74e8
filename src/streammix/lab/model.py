"""A small modern GPT on bytes or other tokens, whose blocks are joined by plain residuals or by hyper-connections."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

import streammix as sm
from streammix.lab.config import OF_STREAMS, RESIDUAL, Config
from streammix.lab.errors import LabError
from streammix.lab.text import VOCABULARY
from streammix.layers.connections import inputs_of

Rotation = tuple[Float[Tensor, "time half"], Float[Tensor, "time half"]]


class Attention(nn.Module):
    """RMSNorm, then causal self-attention with rotary positions; queries, keys and values may be made of inputs of
    their own, which share the norm. `qk_norm` normalises each head's queries and keys."""

    branch_inputs = 3

    def __init__(self, dim: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q_norm, self.k_norm = (RMSNorm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))
        self.norm = RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        queries: Float[Tensor, "batch time dim"],
        keys: Float[Tensor, "batch time dim"],
        values: Float[Tensor, "batch time dim"],
        rotation: Rotation,
    ) -> Float[Tensor, "batch time dim"]:
        if queries is keys is values:
            made = self.qkv(self.norm(queries))
        else:
            parts = zip((queries, keys, values), self.qkv.weight.chunk(3))
            made = torch.cat([F.linear(self.norm(x), weight) for x, weight in parts], -1)
        q, k, v = made.unflatten(-1, (3, self.heads, -1)).movedim(1, -2).unbind(1)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        mixed = F.scaled_dot_product_attention(rotate(q, rotation), rotate(k, rotation), v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """RMSNorm, then SwiGLU: out(silu(gate x) * up x), with `width` hidden units or 8/3 dim, rounded up to 32."""

    def __init__(self, dim: int, width: int | None = None) -> None:
        super().__init__()
        hidden = usual_width(dim) if width is None else width
        self.norm = RMSNorm(dim)
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch time dim"], rotation: Rotation) -> Float[Tensor, "batch time dim"]:
        gate, up = self.gate_up(self.norm(x)).chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)


def usual_width(dim: int) -> int:
    return 32 * math.ceil(dim * 8 / 3 / 32)


class RMSNorm(nn.RMSNorm):
    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)


class Residual(nn.Module):
    """The plain residual connection: x + branch(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Float[Tensor, "*batch dim"], *args: Any) -> Float[Tensor, "*batch dim"]:
        return x + self.branch(*[x] * inputs_of(self.branch), *args)


class PlainStack(nn.Module):
    """The plain residual network, in the form of sm.Stack."""

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.sites = nn.ModuleList(map(Residual, branches))

    def forward(self, x: Float[Tensor, "*batch dim"], *args: Any) -> Float[Tensor, "*batch dim"]:
        for site in self.sites:
            x = site(x, *args)
        return x

    states = forward


class GPT(nn.Module):
    """Tokens (batch, time) to logits (batch, time, vocabulary).

    Each weight of the embedding, the branches and the head is drawn from a generator seeded by (seed, its name):
    models of one seed share these weights whatever their recipe.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # for recipes that start from random numbers
            self.build(config)
        self.reset_parameters()

    def build(self, config: Config) -> None:
        dim = config.dim
        branches = [
            branch
            for _ in range(config.layers)
            for branch in (Attention(dim, config.heads, config.qk_norm), MLP(dim, config.mlp_width))
        ]
        vocabulary = config.vocabulary or VOCABULARY
        self.embed = nn.Embedding(vocabulary, dim)
        self.stack: PlainStack | sm.Stack
        if config.recipe == RESIDUAL:
            for name in OF_STREAMS:
                if getattr(config, name) is not None and (name, config.streams) != ("streams", 1):
                    raise LabError(f"--{name}: {RESIDUAL} has one stream and no matrix to mix it; accepted: recipes")
            self.stack = PlainStack(branches)
        else:
            try:
                self.stack = sm.Stack(branches, dim, config.streams, recipe_of(config))
            except ValueError as error:  # a number of streams, a width or a start that this recipe can't take
                raise LabError(f"recipe {config.recipe}: {error}") from None
        self.norm = RMSNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)

    @property
    def streams(self) -> int:
        """Parallel residual streams (fractions, segments); one in a plain residual network."""
        return self.stack.streams if isinstance(self.stack, sm.Stack) else 1

    def reset_parameters(self) -> None:
        """Draw the embedding from N(0, 1) and a matrix from N(0, 1/inputs), smaller where it ends a branch."""
        depth = len(self.stack.sites)
        for name, parameter in self.named_parameters():
            if not self.is_connection(name) and parameter.ndim == 2 and not parameter.is_meta:
                name = name.removeprefix("stack.")
                match name.split("."):
                    case ["embed", *_]:
                        scale = 1.0
                    case ["head", *_]:
                        scale = 1 / parameter.shape[1]  # near-uniform first predictions
                    case [*_, "out", "weight"]:
                        scale = (parameter.shape[1] * depth) ** -0.5  # the branches' sum has unit size
                    case _:
                        scale = parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=scale, generator=seeded(self.config.seed, name))

    @staticmethod
    def is_connection(name: str) -> bool:
        """Whether a parameter of this name belongs to the connections rather than to the plain model."""
        return name.startswith("stack.") and ".branch." not in name

    def forward(self, tokens: Int64[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        return self.head(self.norm(self.stack(self.embed(tokens), self.rotation(tokens))))

    def states(self, tokens: Int64[Tensor, "batch time"]) -> Float[Tensor, "batch time *streams dim"]:
        """The residual state after the last site: (batch, time, n, width), or (batch, time, C) for plain residuals."""
        return self.stack.states(self.embed(tokens), self.rotation(tokens))

    def rotation(self, tokens: Int64[Tensor, "batch time"]) -> Rotation:
        return rotations(tokens.shape[1], self.config.dim // self.config.heads, tokens.device)

    def loss(self, inputs: Int64[Tensor, "batch time"], targets: Int64[Tensor, "batch time"]) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats a token, in float32."""
        return F.cross_entropy(self(inputs).flatten(0, 1).float(), targets.flatten())


def recipe_of(config: Config) -> sm.recipes.Recipe:
    """The config's recipe with the config's manifold, rounds and start in place of its own."""
    recipe = sm.recipes.get(config.recipe)
    if config.manifold is not None:
        recipe = dataclasses.replace(recipe, manifold=config.manifold, manifold_options={})
    if config.rounds is not None:
        recipe = dataclasses.replace(recipe, manifold_options={**recipe.manifold_options, "rounds": config.rounds})
    return recipe if config.start is None else dataclasses.replace(recipe, mix_start=float(config.start))


def rotations(time: int, width: int, device: torch.device) -> Rotation:
    """cos and sin of position * 10000^(-2i / width), each (time, width / 2)."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    angles = torch.arange(time, dtype=torch.float32, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "batch heads time width"], rotation: Rotation) -> Float[Tensor, "batch heads time width"]:
    """Rotary positions (arXiv 2104.09864): turn the pair (x[i], x[i + width / 2]) by its angle."""
    cos, sin = rotation
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


def seeded(seed: int, name: str) -> torch.Generator:
    """A generator that depends on the seed and the name, and on nothing drawn before."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
