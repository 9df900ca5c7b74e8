"""A multiplier of the writes that training changes (Motif 3, arXiv 2608.09119)."""

import torch
from torch import Tensor, nn

from .._checks import check_number, is_fraction
from .._parameters import AtLeastFloat32, assign, parameter_dtype
from ..recipes import Recipe


class WriteMultiplier(AtLeastFloat32):
    """What post is multiplied by at present: a buffer, which a compiled model sees change, and which checkpoints have.

    Buffers:
        multiplier (): the recipe's write_multiplier at the start.
    """

    multiplier: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        assert recipe.write_multiplier_end is not None
        self.start, self.end = recipe.write_multiplier, recipe.write_multiplier_end
        self.register_buffer("multiplier", torch.empty((), dtype=parameter_dtype()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        assign(self.multiplier, self.start)

    def set(self, value: float) -> None:
        """Multiply by this from now on.

        Raises:
            ValueError: it is not a finite number > 0.
        """
        check_number("write_multiplier", value, "finite numbers > 0", zero=False)
        assign(self.multiplier, value)

    def extra_repr(self) -> str:
        return f"start={self.start:g}, end={self.end:g}"


def anneal_write_multiplier(model: nn.Module, progress: float | int) -> None:
    """Bring every site's write multiplier to where it is after this part of the training (Motif 3, arXiv 2608.09119).

        multiplier = write_multiplier + progress (write_multiplier_end - write_multiplier)

    of each site's own recipe, in place: call it before every step. A compiled model is not compiled again. For a course
    that is not linear, give it another progress, or set `site.write_multiplier` itself.

    Args:
        model: a module with sites whose recipe has a write_multiplier_end, such as "motif-3"; others are left alone.
        progress: from 0, the start of the training, to 1, its end.

    Raises:
        TypeError: model is not a module.
        ValueError: it has no such site; progress is not a number from 0 to 1.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; accepted: a torch.nn.Module")
    if not is_fraction(progress):
        raise ValueError(f"progress: got {progress!r}; accepted: numbers from 0 to 1")
    found = [module for module in model.modules() if isinstance(module, WriteMultiplier)]
    if not found:
        raise ValueError(
            f"model: got a {type(model).__name__} whose write multipliers are constants; accepted: one with sites of a"
            " recipe with a write_multiplier_end, such as motif-3"
        )
    for part in found:
        part.set(part.start + progress * (part.end - part.start))
