"""The package's Triton Sinkhorn by name. Its gradient takes every round for the last; here it is the rounds' own."""

import importlib.util

import torch
from torch import Tensor

from .mHCv2 import sinkhorn_knopps

__all__ = ["is_triton_available", "triton_sinkhorn"]


def triton_sinkhorn(log_alpha: Tensor, iters: int = 20) -> Tensor:
    """`mHCv2.sinkhorn_knopps`, by streammix's operator on every device."""
    return sinkhorn_knopps(log_alpha, iters)


def is_triton_available() -> bool:
    """Whether Triton is installed and there is a CUDA device."""
    return importlib.util.find_spec("triton") is not None and torch.cuda.is_available()
