"""Options of a recipe's manifold that change along the depth."""

from dataclasses import dataclass
from typing import Any

from .._checks import check_integer


@dataclass(frozen=True)
class Switch:
    """A value of `Recipe.manifold_options` that changes once along the depth.

        manifold_options={"sums": Switch("rows", "columns", at=0.5)}  # rows in the first half of the depth

    first: the value at the sites before `at`.
    then: the value at `at` and all later sites.
    at: an integer >= 0: how many sites have `first`. A float from 0 to 1: site k of a network of L has `first` while
        k / L < at; such a site must know L, which `Stack` tells its own.
    """

    first: Any
    then: Any
    at: int | float

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: at is neither.
        """
        share = isinstance(self.at, float) and 0 <= self.at <= 1
        count = isinstance(self.at, int) and not isinstance(self.at, bool) and self.at >= 0
        if not (share or count):
            raise ValueError(f"at: got {self.at!r}; accepted: numbers of sites, integers >= 0, or a share, 0.0 to 1.0")

    def value(self, site: int, sites: int | None = None) -> Any:
        """The value at this site, of so many.

        Raises:
            ValueError: a share of the sites is asked for, and their number is not given.
        """
        check_integer("site", site, 0)
        if isinstance(self.at, int):
            return self.first if site < self.at else self.then
        if sites is None:
            raise ValueError(f"sites: got None; a switch at {self.at:g} of the depth accepts the number of all sites")
        check_integer("sites", sites, site + 1)
        return self.first if site / sites < self.at else self.then

    def __str__(self) -> str:
        where = f"site {self.at}" if isinstance(self.at, int) else f"{self.at:g} of the depth"
        return f"{self.first} before {where} then {self.then}"
