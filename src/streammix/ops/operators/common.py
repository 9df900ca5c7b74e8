"""What several operators share: what they save, and the outputs that their fakes return."""

from typing import Any

import torch
from torch import Tensor


def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """For operators whose inputs are all tensors that the backward pass needs."""
    ctx.save_for_backward(*inputs)


def save_output(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """For operators whose backward pass needs the result alone."""
    ctx.save_for_backward(output)


def like_first(first: Tensor, *others: Any) -> Tensor:
    """One output, contiguous, of the first input's shape."""
    return torch.empty_like(first, memory_format=torch.contiguous_format)


def like_second(first: Tensor, second: Tensor, *others: Any) -> Tensor:
    """One output, contiguous, of the second input's shape."""
    return torch.empty_like(second, memory_format=torch.contiguous_format)


def like_all(*tensors: Tensor) -> tuple[Tensor, ...]:
    """One output of each tensor's shape."""
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)
