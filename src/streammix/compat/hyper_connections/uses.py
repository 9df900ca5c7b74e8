"""The three ways to use a connection: around a branch, as a decorator, and as a pair (input, add_residual)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

Finish = Callable[[Tensor], Tensor]


class Wrapped(nn.Module):
    """What plain residuals and connections share. Subclasses give `connect`.

        connection(x, *args, **kwargs)                    where it was given a branch: the new residuals
        u, add_residual = connection(x)                   where not; then x = add_residual(f(u))
        connection.decorate_branch(f)(x, *args, **kwargs)

    A branch may return any tree of tuples, lists and dicts: its first tensor is added and the tree returned with the
    new residuals in that place.
    """

    branch: Callable[..., Any] | None

    def connect(self, residuals: Tensor) -> tuple[Tensor, Finish]:
        """The branch's input, and a function from the branch's output to the new residuals."""
        raise NotImplementedError

    def forward(self, residuals: Tensor, *branch_args: Any, **branch_kwargs: Any) -> Any:
        u, finish = self.connect(residuals)
        branch: Callable[..., Any] | None = self.branch
        if branch is None:
            return u, lambda output: with_first(output, finish)
        return with_first(branch(u, *branch_args, **branch_kwargs), finish)

    def decorate_branch(self, branch: Callable[..., Any]) -> Callable[..., Any]:
        """A function of residuals and the branch's further arguments that does as `forward` with this branch.

        Raises:
            ValueError: the connection was made with a branch.
        """
        if self.branch is not None:
            raise ValueError("branch: this connection was made with one; decorate_branch accepts connections without")

        def forward_and_add_residual(residual: Tensor, *args: Any, **kwargs: Any) -> Any:
            u, finish = self.connect(residual)
            return with_first(branch(u, *args, **kwargs), finish)

        return forward_and_add_residual


def unchanged(output: Tensor) -> Tensor:
    """The end of a connection that adds nothing to residuals."""
    return output


def with_first(output: Any, change: Finish) -> Any:
    """The tree `output` with its first leaf changed.

    Raises:
        TypeError: its first leaf is not a tensor, or it has none.
    """
    if change is unchanged:
        return output
    if isinstance(output, Tensor):
        return change(output)
    leaves, spec = tree_flatten(output)
    if not leaves or not isinstance(leaves[0], Tensor):
        got = f"a tree that begins with a {type(leaves[0]).__name__}" if leaves else f"an empty {type(output).__name__}"
        raise TypeError(f"branch: returned {got}; accepted: a tensor, or a tree whose first leaf is one")
    return tree_unflatten([change(leaves[0]), *leaves[1:]], spec)
