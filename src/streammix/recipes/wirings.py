"""What recipes may say about a wiring: each connection states it, and enters it here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._checks import check_name


@dataclass(frozen=True)
class Wiring:
    """What a connection accepts of a recipe.

    name: what `Recipe.connection` calls it.
    logits: the generators it takes.
    endings: the values of `Recipe.collapse` it takes.
    options: the connection_options that must be given.
    optional: those that may be.
    authors_start: whether it can start as the recipe's authors do.
    anneals: whether its writes take a multiplier that changes in training, `Recipe.write_multiplier_end`.
    layer_norm: whether it normalises the state by a LayerNorm, whatever its generator does.
    """

    name: str
    logits: tuple[str, ...]
    endings: tuple[str, ...]
    options: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    authors_start: bool = False
    anneals: bool = False
    layer_norm: bool = False

    def check_options(self, given: Mapping[str, Any]) -> None:
        """Raise ValueError for an option that is unknown or missing."""
        accepted = (*self.options, *self.optional)
        for option in given:
            if option not in accepted:
                names = ", ".join(accepted) or "none"
                raise ValueError(f"connection_options: got {option!r}; {self.name} connections accept {names}")
        for option in self.options:
            if option not in given:
                raise ValueError(
                    f"connection_options: got {dict(given)!r} without {option!r}, which {self.name} connections need"
                )


_WIRINGS: dict[str, Wiring] = {}


def register(wiring: Wiring) -> None:
    """Let recipes name this wiring."""
    _WIRINGS[wiring.name] = wiring


def wiring_of(connection: str) -> Wiring:
    """The wiring of this name, or ValueError."""
    check_name("connection", connection, _WIRINGS)
    return _WIRINGS[connection]
