"""The way back from `accelerate` and `add_streams`."""

from typing import TypeVar

from torch import nn

from .accelerating import decelerate
from .adding import remove_streams
from .swapping import Swapped

Model = TypeVar("Model", bound=nn.Module)


def restore(model: Model) -> Model:
    """Take `accelerate` or `add_streams` back, in place.

    An accelerated model computes its hyper-connections by itself again. A model that was given streams is one with a
    single residual state again: its layers keep their own weights, trained or not, and the sites are dropped. Its
    outputs stay as they are while the sites are at their start, and change by what they have learned.

    Returns:
        The model itself.

    Raises:
        ValueError: neither has been done to it.
    """
    if not any(isinstance(module, Swapped) for module in model.modules()):
        raise ValueError(
            "model: nothing in it is accelerated or has streams; streammix.hf.accelerate(model) and add_streams(model)"
            " do that"
        )
    decelerate(model)
    remove_streams(model)
    return model
