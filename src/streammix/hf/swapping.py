"""Another forward for a module that exists: the module's class is exchanged, and nothing else of it changes.

Parameters, buffers, submodules, hooks and names stay, so a state dict is the same before and after.
"""

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


def swap(module: nn.Module, mixin: type[Swapped]) -> None:
    """Exchange the module's class for one with the mixin's methods."""
    module.__class__ = exchanged(mixin, type(module))


def swap_back(module: nn.Module) -> None:
    """Give a module its own class again."""
    module.__class__ = cast("Any", module).original
