"""Learned maps as small grids of numbers: read weights on top, H_res below, write weights at the right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streammix.lab.maps import Maps, SiteMaps
from streammix.lab.report.style import Palette

LOG_DECADES = 5  # below the largest, from full colour to none on the log scale
DENSE = 8  # with more streams than this the cells have no room for digits


@dataclass
class Cell:
    """A number as tiles.html.j2 shows it; `share`, `logarithm` and `wide` are its opacity in the three modes."""

    sign: str
    strong: bool
    share: str
    logarithm: str
    wide: str
    exponent: str
    spread: str
    title: str
    shown: str


@dataclass
class TileRow:
    """What one stream receives."""

    mix: Sequence[Cell]
    write: Cell


@dataclass
class Tile:
    """One site."""

    label: str
    dense: bool
    read: Sequence[Cell]
    rows: Sequence[TileRow]


@dataclass
class Group:
    """All sites of one recipe, and how far training has moved its H_res: see `moved`."""

    name: str
    colour: int
    moved: tuple[float, float] | None
    tiles: Sequence[Tile]


def tiles(name: str, maps: Maps, palette: Palette) -> Group:
    return Group(name, palette.index(name), moved(maps), [tile(site, maps.streams) for site in maps.sites])


def moved(maps: Maps) -> tuple[float, float] | None:
    """Mean size off the diagonal of H_res where the recipe starts it, and after training; None if it is not known."""
    if maps.started is None:
        return None
    return off_diagonal(maps.started), off_diagonal([site.mix for site in maps.sites])


def off_diagonal(mixes: Sequence[Tensor]) -> float:
    """Mean of |H_res[i, j]| over i, j of which i is not j, and over the sites."""
    n = mixes[0].shape[-1]
    apart = [mix.abs()[~torch.eye(n, dtype=torch.bool)] for mix in mixes]
    return torch.cat(apart).mean().item() if n > 1 else 0.0


def tile(site: SiteMaps, streams: int) -> Tile:
    """One site, with the spread over tokens."""
    values = (site.read, site.write, site.mix)
    return grid(site.label, values, (site.read_spread, site.write_spread, site.mix_spread), dense=streams > DENSE)


def grid(label: str, values: Sequence[Tensor], spreads: Sequence[Tensor], *, dense: bool, least: float = 1.0) -> Tile:
    """A tile of read (n), write (n) and mix (n, n), and their spreads; the full colour is the largest, or `least`.

    Row i of the square is what stream i receives: sum_j H_res[i, j] x[j] + write[i] y.
    """
    read, write, mix = (one.tolist() for one in values)
    read_spread, write_spread, mix_spread = (one.tolist() for one in spreads)
    most = max(least, *(abs(value) for value in (*read, *write, *(v for row in mix for v in row))))

    first = [
        cell(value, spread, most, f"read from stream {j + 1}")
        for j, (value, spread) in enumerate(zip(read, read_spread))
    ]
    rows = []
    for i, row in enumerate(mix):
        mixed = [
            cell(value, spread, most, f"stream {j + 1} into stream {i + 1}")
            for j, (value, spread) in enumerate(zip(row, mix_spread[i]))
        ]
        rows.append(TileRow(mixed, cell(write[i], write_spread[i], most, f"written to stream {i + 1}")))
    return Tile(label, dense, first, rows)


def cell(value: float, spread: float, most: float, meaning: str) -> Cell:
    """A number, the stronger its colour the larger; the exact value on hover, and its spread over tokens, if known."""
    share = abs(value) / most
    exact = f"{value:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"
    exponent, logarithm, known = "", 0.0, not math.isnan(spread)
    if math.isfinite(value) and value:
        exponent = str(math.floor(math.log10(abs(value))))
        logarithm = min(1.0, max(0.0, 1 + math.log10(abs(value)) / LOG_DECADES))
    return Cell(
        sign="neg" if value < 0 else "pos",
        strong=share > 0.55,
        share=f"{share:.2f}",
        logarithm=f"{logarithm:.2f}",
        wide=f"{min(1.0, 4 * spread / most) if known else 0:.2f}",  # spreads are smaller than what they are of
        exponent=exponent,
        spread=short(spread) if known else "",
        title=f"{meaning}: {exact}" + (f" ± {spread:.2g} over tokens" if known else ""),
        shown=short(value),
    )


def short(value: float) -> str:
    """Two or three characters: .03, -.4, 1.2, 12."""
    size = abs(value)
    if size < 0.005:
        return "0"
    sign = "−" if value < 0 else ""
    if size < 0.995:
        return sign + f"{size:.2f}".lstrip("0")
    return sign + (f"{size:.1f}" if size < 9.95 else f"{size:.0f}")
