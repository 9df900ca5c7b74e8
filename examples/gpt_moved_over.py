"""A plain GPT is trained, moved over to hyper-connections, and trained on.

    python examples/gpt_moved_over.py --steps 200

The text is this file. The example prints the largest difference of logits that moving over makes, which is rounding,
and the loss before and after the further training.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import streammix as sm

DIM, HEADS, DEPTH, CONTEXT, BYTES = 64, 4, 2, 64, 256


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).transpose(1, 3).unbind(2)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A decoder layer that holds its residuals itself, as those of most models do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(DIM), Attention()
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Bytes (batch, time) to logits (batch, time, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(BYTES, DIM), nn.Embedding(CONTEXT, DIM)
        self.blocks: nn.Module = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, BYTES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def move_over(model: GPT, recipe: str) -> None:
    """Replace the blocks by a stack of their branches: each branch with its norm, and without its residual."""
    branches: list[nn.Module] = []
    for block in model.blocks:
        branches += [nn.Sequential(block.norm1, block.attention), nn.Sequential(block.norm2, block.mlp)]
    model.blocks = sm.Stack(branches, DIM, recipe=recipe)


def train(model: GPT, text: Tensor, steps: int) -> float:
    """The mean loss of the last ten steps, in nats per byte."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(text) - CONTEXT, (16, 1))
        window = text[starts + torch.arange(CONTEXT + 1)]
        loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / len(losses[-10:])


def main(steps: int = 200, recipe: str = "mhc", seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    text = torch.tensor(list(Path(__file__).read_bytes()))
    model, sample = GPT(), text[:CONTEXT].unsqueeze(0)
    before = train(model, text, steps)
    print(f"plain: loss {before:.3f} nats per byte after {steps} steps")
    with torch.no_grad():
        plain = model(sample)
        move_over(model, recipe)
        difference = (model(sample) - plain).abs().max().item()
    print(f"largest difference of logits after moving over: {difference:.1e}")
    after = train(model, text, steps)
    print(f"{recipe}: loss {after:.3f} nats per byte after {steps} further steps")
    return {"difference": difference, "before": before, "after": after}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--recipe", default="mhc", choices=sm.recipes.names())
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
