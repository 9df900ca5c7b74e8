"""What a way of spreading a model is asked for."""

import functools
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.model import GPT, PlainStack
from streammix.lab.scale.settings import Scale
from streammix.lab.scale.team import Team
from streammix.lab.text import Windows


class Layout(ABC):
    """This process's part of a model, and how it takes its part of a step.

    All processes together compute what one would on the whole batch, to rounding.

    Args:
        config, scale: of the run.
        team: its processes.

    Attributes:
        module: this process's part, its parameters by the names that they have in the whole model.
        equal: whether plain parameters are the same in all processes; otherwise each is in one process only.
    """

    module: nn.Module
    equal = True

    def __init__(self, config: Config, scale: Scale, team: Team) -> None:
        self.config, self.scale, self.team = config, scale, team
        self.parts = scale.parts(config, team.world)
        self.spread(whole_model(config, scale))

    @abstractmethod
    def spread(self, model: GPT) -> None:
        """Make `module` of the whole model, which is on the CPU."""

    @abstractmethod
    def backward(self, batch: Windows) -> Tensor:
        """Gradients of the mean loss of this batch, the whole of which every process is given; returns this process's
        share of that loss: the shares' sum is the loss."""

    @abstractmethod
    def measure(self, batch: Windows) -> Tensor:
        """This process's share of the sum of the loss over a batch's windows, without gradients."""

    def apart(self, parameter: nn.Parameter) -> bool:
        """Whether this process has numbers of this parameter that no other has."""
        return bool(placed(parameter) and any(p.is_shard() for p in placed(parameter))) or not self.equal

    def saved(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter, or one of its moments, as checkpoints have it, so that any layout can read it."""
        return tensor

    def loaded(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse of `saved`."""
        return tensor

    def rounding(self) -> AbstractContextManager[None]:
        """Within it, branches run in bfloat16 if the run's are to."""
        return torch.autocast(self.team.device.type, torch.bfloat16, enabled=self.config.bf16)  # type: ignore[return-value]

    def here(self, batch: Windows) -> Windows:
        inputs, targets = batch
        return inputs.to(self.team.device), targets.to(self.team.device)


def placed(tensor: Tensor) -> tuple:
    """The placements of a DTensor; none of a plain tensor."""
    return getattr(tensor, "placements", ())


def whole_model(config: Config, scale: Scale) -> GPT:
    """The run's model on the CPU, which every process builds alike, from the seed."""
    model = GPT(config)
    if scale.recompute is not None:
        recompute_streams(model, "auto" if scale.recompute == "auto" else int(scale.recompute))
    if scale.checkpoint_activations:
        for site in model.stack.sites:
            branch: Any = site.branch
            branch.forward = functools.partial(checkpoint, branch.forward, use_reentrant=False)
    return model


def recompute_streams(model: GPT, recompute: int | Literal["auto"]) -> None:
    """Have the model's Stack keep few states for the backward pass."""
    if isinstance(model.stack, PlainStack) or not all(site.rebuilds for site in model.stack):
        raise LabError(
            f"--recompute: recipe {model.config.recipe} has no states that can be made again; accepted: recipes of"
            " 'hyper' connections with flattened logits (mhc, say)"
        )
    model.stack.recompute = recompute
