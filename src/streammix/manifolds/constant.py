"""Tables of numbers that a manifold's formula contains."""

import torch
from torch import Tensor


class Constant:
    """A tensor that follows its users from device to device.

    It is neither a parameter nor a buffer, because those are lost where a model is built on the meta device, emptied or
    filled by a loader: nothing in a checkpoint would bring a constant back.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def on(self, device: torch.device) -> Tensor:
        """The values on this device; they stay there until another is asked for."""
        values = self.values
        if values.device != device:
            values = values.to(device)
            if device.type != "meta" and not torch.compiler.is_compiling():
                self.values = values
        return values
