"""Learned maps as small grids of numbers: read weights on top, H_res below, write weights at the right."""

import math
from collections.abc import Sequence
from html import escape

import torch
from torch import Tensor

from streammix.lab.maps import Maps, SiteMaps
from streammix.lab.report.page import dot
from streammix.lab.report.style import Palette

LOG_DECADES = 5  # below the largest, from full colour to none on the log scale
DENSE = 8  # with more streams than this the cells have no room for digits


def tiles(name: str, maps: Maps, palette: Palette) -> str:
    """All sites of one recipe, in a row that wraps."""
    row = "".join(tile(site, maps.streams) for site in maps.sites)
    heading = f"<h3>{dot(palette, name)}{escape(name)}</h3>"
    return f'<div class="maps" data-of="{escape(name)}">{heading}{moved(maps)}<div>{row}</div></div>'


def moved(maps: Maps) -> str:
    """How far training has moved H_res from where its recipe starts it."""
    if maps.started is None:
        return ""
    before, after = (off_diagonal(sites) for sites in (maps.started, [site.mix for site in maps.sites]))
    return (
        f'<p class="quiet">Off the diagonal of H<sub>res</sub>, all streams and sites: {before:.2g} on average where'
        f" the recipe starts it, {after:.2g} after training.</p>"
    )


def off_diagonal(mixes: Sequence[Tensor]) -> float:
    """Mean of |H_res[i, j]| over i, j of which i is not j, and over the sites."""
    n = mixes[0].shape[-1]
    apart = [mix.abs()[~torch.eye(n, dtype=torch.bool)] for mix in mixes]
    return torch.cat(apart).mean().item() if n > 1 else 0.0


def modes() -> str:
    """Buttons that choose what the cells show."""
    names = {"value": "value", "log": "log scale", "spread": "spread over tokens"}
    buttons = [
        f'<button type="button" data-show="{mode}" aria-pressed="{str(mode == "value").lower()}">{text}</button>'
        for mode, text in names.items()
    ]
    return f'<div class="modes">{"".join(buttons)}</div>'


def tile(site: SiteMaps, streams: int) -> str:
    """One site. Row i of the square is what stream i receives: sum_j H_res[i, j] x[j] + write[i] y."""
    read, write, mix = site.read.tolist(), site.write.tolist(), site.mix.tolist()
    most = max(1.0, *(abs(value) for value in (*read, *write, *(v for row in mix for v in row))))

    cells = [
        cell(value, spread, most, f"read from stream {j + 1}")
        for j, (value, spread) in enumerate(zip(read, site.read_spread.tolist()))
    ]
    cells += ['<i class="none"></i>'] * 2 + ['<i class="gap"></i>'] * (streams + 2)
    for i, row in enumerate(mix):
        spreads = site.mix_spread[i].tolist()
        cells += [
            cell(value, spread, most, f"stream {j + 1} into stream {i + 1}")
            for j, (value, spread) in enumerate(zip(row, spreads))
        ]
        cells += ['<i class="none"></i>']
        cells += [cell(write[i], site.write_spread[i].item(), most, f"written to stream {i + 1}")]
    dense = " dense" if streams > DENSE else ""
    return (
        f'<div class="tile{dense}" style="--n:{streams}">{escape(site.label)}'
        f'<div class="cells">{"".join(cells)}</div></div>'
    )


def cell(value: float, spread: float, most: float, meaning: str) -> str:
    """A number, the stronger its colour the larger; the exact value and its spread over tokens on hover."""
    share = abs(value) / most
    sign = "neg" if value < 0 else "pos"
    strong = " strong" if share > 0.55 else ""
    exact = f"{value:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"
    title = f"{meaning}: {exact} ± {spread:.2g} over tokens"
    exponent, logarithm = "", 0.0
    if math.isfinite(value) and value:
        exponent = str(math.floor(math.log10(abs(value))))
        logarithm = min(1.0, max(0.0, 1 + math.log10(abs(value)) / LOG_DECADES))
    wide = min(1.0, 4 * spread / most)  # spreads are smaller than what they are of
    style = f"--a:{share:.2f};--l:{logarithm:.2f};--s:{wide:.2f}"
    marks = f'data-log="{exponent}" data-spread="{short(spread)}"'
    return f'<i class="{sign}{strong}" style="{style}" {marks} title="{title}">{short(value)}</i>'


def short(value: float) -> str:
    """Two or three characters: .03, -.4, 1.2, 12."""
    size = abs(value)
    if size < 0.005:
        return "0"
    sign = "−" if value < 0 else ""
    if size < 0.995:
        return sign + f"{size:.2f}".lstrip("0")
    return sign + (f"{size:.1f}" if size < 9.95 else f"{size:.0f}")
