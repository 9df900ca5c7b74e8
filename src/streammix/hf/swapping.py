"""Another forward for a module that exists: the module's class is exchanged, and nothing else of it changes.

Parameters, buffers, submodules, hooks and names stay, so a state dict is the same before and after.
"""

from types import MethodType
from typing import Any, ClassVar, cast

from torch import nn


class Swapped:
    """The first base of every exchanged class; gives copies and pickles a way back to it."""

    original: ClassVar[type[nn.Module]]
    mixin: ClassVar[type["Swapped"]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return blank, (self.mixin, self.original), self.__dict__


class Accelerated(Swapped):
    """A part of a model that `streammix.hf.accelerate` has exchanged."""


_MADE: dict[tuple[type, type], type[nn.Module]] = {}


def exchanged(mixin: type[Swapped], original: type[nn.Module]) -> type[nn.Module]:
    """A class with the mixin's methods before the original's.

    It has the original's name, because transformers, accelerate and FSDP find layers by the names of their classes.
    """
    if (mixin, original) not in _MADE:
        body = {"original": original, "mixin": mixin, "__module__": original.__module__, "__doc__": original.__doc__}
        _MADE[mixin, original] = type(original.__name__, (mixin, original), body)
    return _MADE[mixin, original]


def blank(mixin: type[Swapped], original: type[nn.Module]) -> nn.Module:
    """An instance without state, which unpickling and copying then fill."""
    cls = exchanged(mixin, original)
    return cls.__new__(cls)


#: Where the package accelerate holds the forward that its own one calls, which fetches parameters first.
HOOKED = "_old_forward"


def check_forward(module: nn.Module) -> None:
    """Raise ValueError where another class would change nothing, because the module has a forward of its own."""
    if "forward" in module.__dict__ and HOOKED not in module.__dict__:
        raise ValueError(
            f"model: the forward of its {type(module).__name__} has been replaced by {module.forward!r}; accepted:"
            " modules with the forward of their class, or with accelerate's hooks"
        )


def swap(module: nn.Module, mixin: type[Swapped]) -> None:
    """Exchange the module's class for one with the mixin's methods."""
    module.__class__ = exchanged(mixin, type(module))
    hooked_again(module)


def swap_back(module: nn.Module) -> None:
    """Give a module its own class again."""
    module.__class__ = cast("Any", module).original
    hooked_again(module)


def hooked_again(module: nn.Module) -> None:
    """Let hooks of accelerate call the forward of the class that the module has now."""
    if HOOKED in module.__dict__:
        module.__dict__[HOOKED] = MethodType(type(module).forward, module)
