"""Plain PyTorch formulas: one readable reference an operator, which serves where no kernel does."""

import torch

from ..status import Status

NAME = "eager"
DEVICES = ("any",)
ACCEPTS = "any n"


def status() -> Status:
    return Status(True, "plain PyTorch formulas, any device and n")


def serves(device: str, n: int, dtype: torch.dtype) -> bool:
    """Whether it takes matrices of n rows, or n streams, of this dtype on this type of device: always."""
    return True
