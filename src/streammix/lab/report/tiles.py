"""Learned maps as small grids of numbers: read weights on top, H_res below, write weights at the right."""

from html import escape

from streammix.lab.maps import Maps, SiteMaps
from streammix.lab.report.page import dot
from streammix.lab.report.style import Palette

DENSE = 8  # with more streams than this the cells have no room for digits


def tiles(name: str, maps: Maps, palette: Palette) -> str:
    """All sites of one recipe, in a row that wraps."""
    row = "".join(tile(site, maps.streams) for site in maps.sites)
    heading = f"<h3>{dot(palette, name)}{escape(name)}</h3>"
    return f'<div class="maps" data-of="{escape(name)}">{heading}<div>{row}</div></div>'


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
    title = f"{meaning}: {value:.4f} ± {spread:.2g} over tokens"
    return f'<i class="{sign}{strong}" style="--a:{share:.2f}" title="{title}">{short(value)}</i>'


def short(value: float) -> str:
    """Two or three characters: .03, -.4, 1.2, 12."""
    size = abs(value)
    if size < 0.005:
        return "0"
    sign = "−" if value < 0 else ""
    if size < 0.995:
        return sign + f"{size:.2f}".lstrip("0")
    return sign + (f"{size:.1f}" if size < 9.95 else f"{size:.0f}")
