"""Small models whose sites are of every kind that can be watched."""

import torch
from torch import Tensor, nn

import streammix as sm

DIM, STREAMS = 8, 4


def scattered(model: nn.Module) -> nn.Module:
    """The model away from its start, where most coefficients are alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 4)
    return model


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, u: Tensor) -> Tensor:
        return self.linear(u).tanh()


class Stacked(nn.Module):
    """(tokens, DIM) -> (tokens, 7) by a Stack of four sites."""

    def __init__(self, recipe: str = "mhc") -> None:
        super().__init__()
        self.stack = sm.Stack([Branch() for _ in range(4)], DIM, STREAMS, recipe)
        self.head = nn.Linear(DIM, 7)
        scattered(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(x))


class Borrowing(nn.Module):
    """The same sites by `sm.connect`, on parameters of the model's own."""

    def __init__(self, stacked: Stacked) -> None:
        super().__init__()
        self.branches = nn.ModuleList(site.branch for site in stacked.stack)
        self.weights, self.biases, self.gates = (
            nn.ParameterList(getattr(site.logits, name) for site in stacked.stack)
            for name in ("weight", "bias", "gate")
        )
        self.collapse, self.head = stacked.stack.collapse, stacked.head

    def forward(self, x: Tensor) -> Tensor:
        x = sm.expand(x, STREAMS)
        for branch, *parameters in zip(self.branches, self.weights, self.biases, self.gates):
            u, finish = sm.connect(x, *parameters, "mhc")
            x = finish(branch(u))
        return self.head(self.collapse(x))
