"""Parameters that small matrices are made from: their dtype, and how they get their initial values."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def parameter_dtype() -> torch.dtype:
    """The default dtype, float32 at least."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class AtLeastFloat32(nn.Module):
    """Floating point parameters and buffers stay in float32 at least: `.half()` and `.bfloat16()` on the model pass
    them by, because a mixing matrix made in bfloat16 is hundreds of times less stochastic."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def at_least_float32(t: Tensor) -> Tensor:
            out = fn(t)
            narrowed = out.is_floating_point() and out.itemsize < 4 and t.itemsize >= 4
            return torch.empty_like(out, dtype=t.dtype).copy_(t) if narrowed else out

        return super()._apply(at_least_float32, recurse)

    @property
    def _is_hf_initialized(self) -> bool:
        """Hugging Face's loader asks every module whether it is initialised, and leaves those that it does not know
        with the memory it found. Asked by it, a module initialises what was not read from the checkpoint."""
        if loader_initialises() and (reset := getattr(self, "reset_parameters", None)):
            reset()
        return True

    @_is_hf_initialized.setter
    def _is_hf_initialized(self, value: bool) -> None:
        pass


@torch.no_grad()
def assign(parameter: Tensor, values: Tensor | Sequence[float] | float) -> None:
    """Write values, or one value everywhere, into a parameter, in place; each rank writes its own part of a DTensor.

    While Hugging Face's loader initialises a model, parameters that it read from the checkpoint keep what was read.
    """
    if loaded(parameter):
        return
    if isinstance(values, float | int):
        parameter.fill_(values)
    else:
        parameter.copy_(matching(parameter, values))


@torch.no_grad()
def assign_normal(parameter: Tensor, std: Tensor | float, mean: float = 0.0) -> None:
    """Draw a parameter from N(mean, std^2), in place, as `assign` does; a tensor of std has one for each number."""
    if loaded(parameter):
        return
    if isinstance(std, Tensor):
        parameter.normal_().mul_(matching(parameter, std)).add_(mean)
    elif std:
        parameter.normal_(mean, std)
    else:
        parameter.fill_(mean)


def matching(parameter: Tensor, values: Tensor | Sequence[float]) -> Tensor:
    """The values as a tensor that can be combined with the parameter: on its device, and distributed as it is."""
    values = torch.as_tensor(values, dtype=parameter.dtype, device=None if isinstance(values, Tensor) else "cpu")
    values = values.to(parameter.device)
    if not hasattr(parameter, "device_mesh"):
        return values
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    # None: every rank has the values already, so that nothing is sent.
    return distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=None)


def loaded(parameter: Tensor) -> bool:
    """Whether Hugging Face's loader is initialising a model, and has read this parameter from the checkpoint."""
    return getattr(parameter, "_is_hf_initialized", False) and loader_initialises()


def loader_initialises() -> bool:
    """Whether Hugging Face's loader is initialising a model: it then has its own functions in place of torch.nn.init's,
    which pass by the parameters that it marked as read from the checkpoint."""
    return nn.init.normal_.__module__ != "torch.nn.init"
