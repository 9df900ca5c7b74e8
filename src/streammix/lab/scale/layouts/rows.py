"""Layouts whose processes take their rows of every batch."""

from abc import abstractmethod

import torch
from torch import Tensor

from streammix.lab.scale.layouts.base import Layout
from streammix.lab.text import Windows


class Rows(Layout):
    """Each process takes its rows of the batch, in `parts` one after the other; gradients become the mean."""

    @abstractmethod
    def loss(self, inputs: Tensor, targets: Tensor, *, last: bool) -> Tensor:
        """The mean loss of these rows. `last`: the step's last part, after which gradients are reduced."""

    def backward(self, batch: Windows) -> Tensor:
        rank, world = self.team.rank, self.team.world
        inputs, targets = self.here((batch[0].chunk(world)[rank], batch[1].chunk(world)[rank]))
        total = torch.zeros((), device=self.team.device)
        for index, (some, wanted) in enumerate(zip(inputs.chunk(self.parts), targets.chunk(self.parts))):
            total += self.one_part(some, wanted, last=index == self.parts - 1)
        return total / (self.parts * world)

    def one_part(self, inputs: Tensor, targets: Tensor, *, last: bool) -> Tensor:
        loss = self.loss(inputs, targets, last=last)
        (loss / self.parts).backward()
        return loss.detach()

    @torch.no_grad()
    def measure(self, batch: Windows) -> Tensor:
        rank, world = self.team.rank, self.team.world
        inputs, targets = self.here((batch[0][rank::world], batch[1][rank::world]))
        count = len(inputs)
        if not count:  # the others gather parameters with this process
            inputs, targets = self.here((batch[0][:1], batch[1][:1]))
        return self.loss(inputs, targets, last=True) * count
