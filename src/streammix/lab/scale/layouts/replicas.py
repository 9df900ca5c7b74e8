"""--parallel ddp: DistributedDataParallel."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from streammix.lab.model import GPT
from streammix.lab.scale.layouts.rows import Rows


class Replicas(Rows):
    """Each process has the whole model; gradients are averaged while the backward pass runs."""

    def spread(self, model: GPT) -> None:
        self.module = model.to(self.team.device)
        unused = bool(without_gradient(model))
        self.run = DistributedDataParallel(
            Losses(model), process_group=self.team.mesh.get_group(), find_unused_parameters=unused
        )

    def one_part(self, inputs: Tensor, targets: Tensor, *, last: bool) -> Tensor:
        with nullcontext() if last else self.run.no_sync():
            return super().one_part(inputs, targets, last=last)

    def loss(self, inputs: Tensor, targets: Tensor, *, last: bool) -> Tensor:
        with self.rounding():
            loss: Tensor = (self.run if torch.is_grad_enabled() else self.run.module)(inputs, targets)
        return loss


class Losses(nn.Module):
    """A model whose call returns its loss, as DistributedDataParallel asks for."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(inputs, targets)


def without_gradient(model: GPT) -> list[str]:
    """The parameters that a step leaves without a gradient, as some recipes' last site has."""
    device = next(model.parameters()).device
    tokens = torch.zeros(1, min(8, model.config.context), dtype=torch.int64, device=device)
    model.loss(tokens, tokens).backward()
    names = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    model.zero_grad()
    return names
