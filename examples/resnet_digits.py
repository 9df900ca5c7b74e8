"""A small residual convolutional network on scikit-learn's digits: channels first, and a ReLU after every sum.

    python examples/resnet_digits.py --epochs 10

`channel_dim=1` keeps the layout (B, C, H, W), and `activation` puts the ReLU where a ResNet has it. A change of width
needs a layer between two stacks, because all streams of one stack have one width.
"""

import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import streammix as sm

WIDTHS, BLOCKS, CLASSES = (16, 32), 2, 10


def branch(width: int) -> nn.Module:
    """What a basic block adds to its input."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
    )


def transition(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


class Stage(nn.ModuleList):
    """The plain stage: relu(x + branch(x)), for every branch in order."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            x = F.relu(x + block(x))
        return x


def resnet() -> nn.Sequential:
    """Images (batch, 1, 8, 8) to logits (batch, 10)."""
    narrow, wide = WIDTHS
    return nn.Sequential(
        transition(1, narrow, 1),
        Stage(branch(narrow) for _ in range(BLOCKS)),
        transition(narrow, wide, 2),
        Stage(branch(wide) for _ in range(BLOCKS)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(wide, CLASSES),
    )


def with_streams(model: nn.Sequential, recipe: str) -> nn.Sequential:
    """A copy of the model in which every stage is a stack of connections around the same branches."""
    model = copy.deepcopy(model)
    for index, width in ((1, WIDTHS[0]), (3, WIDTHS[1])):
        model[index] = sm.Stack(model[index], width, recipe=recipe, channel_dim=1, activation=nn.ReLU())
    return model


def main(epochs: int = 10, recipe: str = "mhc", seed: int = 0) -> dict[str, float]:
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(digits.target)
    held_out, training = torch.randperm(len(images)).split([400, len(images) - 400])

    plain = resnet().eval()
    streams = with_streams(plain, recipe)
    with torch.no_grad():
        difference = (plain(images[held_out]) - streams(images[held_out])).abs().max().item()
    print(f"largest difference of logits before training: {difference:.1e}")

    optimizer = torch.optim.AdamW(streams.parameters(), lr=2e-3, weight_decay=0.0)
    streams.train()
    for _ in range(epochs):
        for batch in training[torch.randperm(len(training))].split(64):
            optimizer.zero_grad()
            F.cross_entropy(streams(images[batch]), labels[batch]).backward()
            optimizer.step()
    streams.eval()
    with torch.no_grad():
        right = (streams(images[held_out]).argmax(-1) == labels[held_out]).float().mean().item()
    print(f"{recipe}: {right:.1%} of {len(held_out)} held-out digits are right after {epochs} epochs")
    return {"difference": difference, recipe: right}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--recipe", default="mhc", choices=["mhc", "mhc-sinkhorn", "ihc", "mhc-lite"])
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
