"""The papers' settings as data. `names` lists them, `get` returns one, `dataclasses.replace` changes it."""

from functools import cache

from .._checks import check_called
from .depth import Switch
from .recipe import Activation, AuthorsStart, Logits, Recipe
from .wirings import Wiring, register

__all__ = ["Activation", "AuthorsStart", "Logits", "Recipe", "Switch", "Wiring", "get", "names", "register"]


@cache
def _by_name() -> dict[str, Recipe]:
    from . import papers  # imported at the first use, because recipes check themselves and connections enter first

    return {recipe.name: recipe for recipe in papers.ALL}


def names() -> tuple[str, ...]:
    """The names of all recipes."""
    return tuple(_by_name())


def get(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: no recipe has this name; the message lists those that exist.
    """
    check_called("recipe", name, _by_name())
    return _by_name()[name]
