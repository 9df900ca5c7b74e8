"""A small vision transformer on scikit-learn's digits, with plain residuals and with four streams.

    python examples/vit_digits.py --epochs 20

The two models have the same branches with the same initial weights. The example prints the largest difference of their
logits before training, which is rounding because recipe mhc starts as the residual network, and the accuracy of each on
images that were held out.
"""

import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import streammix as sm

DIM, HEADS, PATCH, DEPTH, CLASSES = 48, 4, 2, 3, 10


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.attend = nn.MultiheadAttention(DIM, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.attend(x, x, x, need_weights=False)[0]


def mlp() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))


class Residuals(nn.ModuleList):
    """The plain residual network: x + branch(x), for every branch in order."""

    def forward(self, x: Tensor) -> Tensor:
        for branch in self:
            x = x + branch(x)
        return x


class ViT(nn.Module):
    """Images (batch, 8, 8) to logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, DIM)
        self.position = nn.Parameter(0.02 * torch.randn((8 // PATCH) ** 2, DIM))
        self.blocks: nn.Module = Residuals(branch for _ in range(DEPTH) for branch in (Attention(), mlp()))
        self.head = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        patches = images.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
        return self.head(self.blocks(self.embed(patches) + self.position).mean(1))


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(-1) == labels).float().mean().item()


def main(epochs: int = 20, recipe: str = "mhc", seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 8 - 1
    labels = torch.tensor(digits.target)
    held_out, training = torch.randperm(len(images)).split([400, len(images) - 400])

    plain = ViT()
    streams = copy.deepcopy(plain)
    streams.blocks = sm.Stack(streams.blocks, DIM, recipe=recipe)  # the only change

    difference = (plain(images[held_out]) - streams(images[held_out])).abs().max().item()
    print(f"largest difference of logits before training: {difference:.1e}")
    results = {"difference": difference}
    for name, model in (("residual", plain), (recipe, streams)):
        train(model, images[training], labels[training], epochs, seed)
        results[name] = accuracy(model, images[held_out], labels[held_out])
        print(f"{name}: {results[name]:.1%} of {len(held_out)} held-out digits are right after {epochs} epochs")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--recipe", default="mhc", choices=sm.recipes.names())
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
