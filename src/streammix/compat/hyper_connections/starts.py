"""Parameters with a start that they can be set to again, as models on the meta device and loaders need it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._parameters import assign


class Started(nn.Module):
    """Has `reset_parameters` for its own parameters, those that `start` made."""

    def start(self, name: str, value: Tensor | float, shape: Sequence[int] = ()) -> None:
        """Make a parameter that starts as these values, a tensor on the CPU, or as one value everywhere in a shape."""
        size = value.shape if isinstance(value, Tensor) else torch.Size(shape)
        parameter = nn.Parameter(torch.empty(size))
        setattr(self, name, parameter)
        # Plain numbers, because a tensor would be lost on the meta device.
        starts: dict[str, Any] = self.__dict__.setdefault("starts", {})
        starts[name] = value.tolist() if isinstance(value, Tensor) else value
        self.reset(name)

    def reset_parameters(self) -> None:
        """Set the module's own parameters to their start, in place, on any device."""
        for name in self.__dict__.get("starts", ()):
            self.reset(name)

    def reset(self, name: str) -> None:
        """Set one parameter to its start."""
        value = self.__dict__["starts"][name]
        assign(self.get_parameter(name), torch.tensor(value, device="cpu") if isinstance(value, list) else value)


class Weight(Started):
    """One parameter, `weight`, with a start; it stands where the package has a layer that only holds a weight."""

    weight: nn.Parameter

    def __init__(self, value: Tensor | float, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.start("weight", value, shape)
