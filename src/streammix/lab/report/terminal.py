"""`streammix inspect`: one trained model's read, write and mix maps, in a terminal or on a page."""

from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.files import replace_file
from streammix.lab.maps import Maps, SiteMaps, measure_checkpoint, unmapped
from streammix.lab.report import map_sections
from streammix.lab.report.page import page
from streammix.lab.report.style import Palette
from streammix.lab.report.tiles import short, tiles

LEGEND = (
    "Row i of mix is what stream i keeps and takes from the others. reads, writes: effective streams, "
    "(Σ|a|)²/Σa²; drift: ‖H − I‖ (Frobenius); marginal: ‖H1 − 1‖₁ + ‖Hᵀ1 − 1‖₁; "
    "cosine: of two streams after the site.\n"
)


def inspect_checkpoint(path: Path, out: Path | None = None, console: Console | None = None) -> None:
    """Print a model's maps, site by site, as they are on held-out text; with `out`, write a page of them too.

    Args:
        path: a checkpoint's folder, or a run's: then its newest readable checkpoint.
        out: an .html file to write, in an existing folder.

    Raises:
        LabError: no readable checkpoint, no text, or an `out` that cannot be written.
        OSError: the disk is full.
    """
    if out is not None:
        require_page(out)
    console = console or Console()
    config, maps = measure_checkpoint(path)
    if maps is None:
        say(console, f"{path}: no read, write or mix maps to inspect; {unmapped(config.recipe)}.")
        if out is not None:
            raise LabError(f"{out} is not written: {unmapped(config.recipe)}")
        return

    title = f"{config.recipe}, {maps.streams} streams, on {maps.tokens:,} bytes of held-out text"
    console.print(site_table(maps, title))
    console.print(gain_table(maps))
    if out is not None:
        replace_file(out, model_page(config, maps).encode())
        say(console, f"Page: {out}")


def say(console: Console, line: str) -> None:
    """Print a line as it is: a path may hold what rich takes for markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def require_page(out: Path) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise LabError(f"--out is {out}; accepted: a file name that ends in .html")
    if not out.absolute().parent.is_dir():
        raise LabError(f"{out.parent}: no such folder")


def site_table(maps: Maps, title: str) -> Table:
    """A row a site: its maps as a block of numbers, their spread over tokens, and what they amount to."""
    spreads = maps.streams <= 4  # more do not fit a terminal
    table = Table(
        title=title,
        caption=LEGEND,
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAVY,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("site", no_wrap=True)
    table.add_column("read, below it\nmix and write", no_wrap=True)
    if spreads:
        table.add_column("their spread\nover tokens", no_wrap=True)
    table.add_column("measures", no_wrap=True)
    for site in maps.sites:
        means = block(site.read, site.mix, site.write, number)
        row: list[str | Text] = [site.label.replace(" ", "\n", 1), means]
        if spreads:
            row.append(block(site.read_spread, site.mix_spread, site.write_spread, spread))
        table.add_row(*row, measures(site, maps.streams) + "\n")
    return table


def block(read: Tensor, mix: Tensor, write: Tensor, show: Callable[[float, float], Text]) -> Text:
    """The read weights in the first line, then H_res by rows with each stream's write weight at the end."""
    most = max(1.0, *(part.abs().max().item() for part in (read, mix, write)))
    lines = [Text.assemble(*(show(value, most) for value in read.tolist()))]
    for row, written in zip(mix.tolist(), write.tolist()):
        lines.append(Text.assemble(*(show(value, most) for value in row), " ", show(written, most)))
    return Text("\n").join(lines)


def number(value: float, most: float) -> Text:
    """A number that stands out the more the larger it is, blue above zero and orange below."""
    colour = "rgb(40,110,200)" if value >= 0 else "rgb(200,90,20)"
    share = abs(value) / most
    style = f"white on {colour}" if share > 0.5 else f"bold {colour}" if share > 0.1 else "dim" * (share < 0.005)
    return Text(f"{short(value):>4}", style=style)


def spread(value: float, _: float) -> Text:
    """A standard deviation in four characters: .12, 3e-4, and 0 below 5e-5."""
    shown = short(value) if value >= 0.005 or value < 5e-5 else f"{value:.0e}".replace("e-0", "e-")
    return Text(f"{shown:>5}", style="dim")


def measures(site: SiteMaps, streams: int) -> str:
    """Streams used, distance from the identity and from doubly stochastic, likeness of the streams after."""
    m = site.measures
    return "\n".join(
        [
            f"reads  {m['effective_read']:.1f} of {streams}",
            f"writes {m['effective_write']:.1f} of {streams}",
            f"drift    {m['identity_drift']:<7.2g}",
            f"marginal {m['marginal_error']:<7.2g}",
            f"cosine   {m['stream_cosine']:.4f}",
        ]
    )


def gain_table(maps: Maps) -> Table:
    """Composite gains by depth, averaged over tokens."""
    title = "Composite gain by depth (one is ideal)"
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAVY,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("site")
    for heading in ("forward\nsites 1 to l", "backward\nsites l to last", "differences kept\nsites 1 to l"):
        table.add_column(heading, justify="right")
    gains = maps.gains
    columns = zip(maps.sites, gains.forward.tolist(), gains.backward.tolist(), gains.complement.tolist())
    for site, forward, backward, kept in columns:
        table.add_row(site.label, f"{forward:.4f}", f"{backward:.4f}", f"{kept:.4f}")
    return table


def model_page(config: Config, maps: Maps) -> str:
    """The report's sections about maps, for one model."""
    name = config.recipe
    palette = Palette([name])
    lead = f"{name}: a GPT with {len(maps.sites)} sites and {maps.streams} streams."
    return page(
        "model.html.j2",
        f"What {name} learned",
        map_sections({name: maps}, palette),
        palette,
        lead=[lead],
        notes=[],
        maps=[tiles(name, maps, palette)],
        about={},
    )
