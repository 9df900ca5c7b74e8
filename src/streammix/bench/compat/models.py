"""The same small model of the package's connections and of ours: a stack of branches without anything between them."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from streammix.lab.errors import LabError

PACKAGE, OURS = "hyper_connections", "streammix.compat.hyper_connections"
STREAMS, LAYERS, BATCH, TOKENS = 4, 4, 2, 128

#: Class -> the module that has the functions of its name, in the package and in ours.
CLASSES = {
    "HyperConnections": "",
    "mHC": ".manifold_constrained_hyper_connections",
    "mHCv2": ".mHCv2",
}
BRANCHES: dict[str, Callable[[int], nn.Module]] = {
    "RMSNorm": nn.RMSNorm,
    "Linear": lambda dim: nn.Linear(dim, dim),
}


def check_installed() -> None:
    """Raise LabError unless the package is there."""
    if find_spec(PACKAGE) is None:
        raise LabError("hyper-connections, to measure against, is not installed: pip install hyper-connections")


class Model(nn.Module):
    """Streams of `package`'s connections around branches of one kind."""

    def __init__(self, package: str, cls: str, branch: str, dim: int) -> None:
        super().__init__()
        make: Any = import_module(package + CLASSES[cls]).get_init_and_expand_reduce_stream_functions
        connection, self.expand, self.reduce = make(STREAMS, dim=dim)
        self.layers = nn.ModuleList(
            connection(branch=BRANCHES[branch](dim), layer_index=index) for index in range(LAYERS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.expand(x)
        for layer in self.layers:
            x = layer(x)
        out: torch.Tensor = self.reduce(x)
        return out


def training_step(model: Model, dim: int) -> Callable[[], object]:
    """Forward, a mean of squares and backward, gradients being made anew; float32."""
    x = torch.randn(BATCH, TOKENS, dim)

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    return step
