"""What a branch may be, and how many inputs it takes of the streams."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from ..._checks import is_integer

#: More inputs than any branch is meant to have: attention has three.
MOST = 64


def inputs_of(branch: Callable[..., Any] | None) -> int:
    """What a branch says by its attribute `branch_inputs`, else 1.

    Raises:
        ValueError: it says something else than an integer from 1 to 64.
    """
    inputs = getattr(branch, "branch_inputs", 1)
    if not is_integer(inputs, 1, MOST):
        raise ValueError(f"branch: its branch_inputs is {inputs!r}; accepted: integers from 1 to {MOST}")
    return int(inputs)


def chosen_inputs(option: Any, site: int, branch: Callable[..., Any] | None) -> int:
    """What a recipe's connection option `inputs` says of a site, else its branch.

    Args:
        option: a number for every site, several that repeat along the sites, or None.

    Raises:
        ValueError: no such number, or another than the branch's.
    """
    if option is None:
        return inputs_of(branch)
    along = tuple(option) if isinstance(option, list | tuple) else (option,)
    if not along or not all(is_integer(inputs, 1, MOST) for inputs in along):
        raise ValueError(f"inputs: got {option!r}; accepted: an integer from 1 to {MOST}, or several for sites in turn")
    inputs = int(along[site % len(along)])
    if hasattr(branch, "branch_inputs") and inputs_of(branch) != inputs:
        raise ValueError(
            f"inputs: got {inputs} for site {site}, whose branch has branch_inputs {inputs_of(branch)}; accepted: that"
        )
    return inputs


def checked_branch(branch: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The branch, or an error; a warning if it is a function that hides modules."""
    if branch is not None and not callable(branch):
        raise TypeError(f"branch: got {type(branch).__name__}; accepted: a module, a function or None")
    if hidden := hidden_modules(branch):
        warnings.warn(
            f"branch: got a function that holds {', '.join(hidden)}; a connection does not own the parameters of what a"
            " function holds: pass the module itself, or keep it in a module of yours as well",
            stacklevel=4,
        )
    return branch


def hidden_modules(branch: Any) -> list[str]:
    """The types of the modules with parameters that a function holds in its closure, defaults or bound arguments."""
    if branch is None or isinstance(branch, nn.Module):
        return []
    held: list[Any] = [getattr(branch, "__self__", None)]
    held += getattr(branch, "args", ()) or ()  # of functools.partial, as the next
    held += (getattr(branch, "keywords", None) or {}).values()
    held += [getattr(branch, "func", None)]
    if inspect.isfunction(branch):
        held += branch.__defaults__ or ()
        for cell in branch.__closure__ or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
    return [type(h).__name__ for h in held if isinstance(h, nn.Module) and next(h.parameters(), None) is not None]
