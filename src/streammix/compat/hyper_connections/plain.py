"""The plain residual, which `disable=True` puts in place of every connection."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .uses import Finish, Wrapped


class Residual(Wrapped):
    """branch(x) + residual_transform(x). It takes every connection's arguments and leaves the others alone."""

    def __init__(
        self,
        *args: Any,
        branch: Callable[..., Any] | None = None,
        residual_transform: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.residual_transform = nn.Identity() if residual_transform is None else residual_transform

    def width_connection(self, residuals: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The branch's input, what its output is added to, and nothing further."""
        return residuals, residuals, {}

    def depth_connection(self, branch_output: Tensor, residuals: Tensor) -> Tensor:
        """The sum."""
        return branch_output + self.residual_transform(residuals)

    def connect(self, residuals: Tensor) -> tuple[Tensor, Finish]:
        u, kept, _ = self.width_connection(residuals)
        return u, lambda y: self.depth_connection(y, kept)
