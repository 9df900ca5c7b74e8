"""The exceptions the lab raises for what a user can put right."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streammix.lab.config import Config


class LabError(Exception):
    """Wrong input or a full disk, said in one line; the command line prints it and exits with 2."""


class Diverged(LabError):
    """The loss or the gradient of a step is not finite; its weights were not changed."""

    def __init__(self, loss: float, grad_norm: float, step: int, config: "Config", *further: str) -> None:
        self.loss, self.grad_norm, self.step, self.config = loss, grad_norm, step, config
        said = (
            f"training diverged: loss {loss:g}, gradient norm {grad_norm:g} at step {step}; a lower --lr (now"
            f" {config.lr:g}) or a longer --warmup may help"
        )
        super().__init__("; ".join((said, *further)))
