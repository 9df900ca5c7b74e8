"""What the `bench` command does, whatever the suite: run parts, show them, write JSON and a plot."""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from streammix import backends
from streammix.lab.errors import LabError
from streammix.lab.machine import processor

from .compat.suite import SUITE as COMPAT
from .device.suite import SUITE as DEVICE
from .digits.suite import SUITE as DIGITS
from .figure import draw
from .projection.suite import SUITE as PROJECTION
from .site.suite import SUITE as SITE
from .suite import Rows, Suite
from .transport.suite import SUITE as TRANSPORT

SUITES = {
    "projection": PROJECTION,
    "digits": DIGITS,
    "site": SITE,
    "transport": TRANSPORT,
    "compat": COMPAT,
    "device": DEVICE,
}


def bench(
    name: str = "projection",
    *,
    options: Mapping[str, Any],
    threads: int | None = None,
    only: Iterable[str] = (),
    json_path: Path | None = None,
    plot_path: Path | None = None,
) -> dict[str, Any]:
    """Measure, print tables as they are ready, and write JSON and plot where asked for.

    Args:
        name: "projection", "digits", "site", "transport", "compat" or "device".
        options: values for fields of the suite's settings; what is not given keeps its default.
        threads: CPU threads; None: torch's choice.
        only: names of the parts wanted; empty: all.

    Returns:
        "suite", "machine", "settings", "seconds" (of each part), and the rows of each part under its name.

    Raises:
        LabError: a wrong name or value; says what came and what is accepted.
    """
    suite = _suite(name)
    settings = _settings(name, suite, options)
    parts = suite.parts(settings)
    for part in only:
        if part not in parts:
            raise LabError(f"--only: there is no part {part!r}; accepted: {', '.join(parts)} (suite {name})")
    wanted = [part for part in parts if part in only] or list(parts)
    pictured = [part for part in wanted if part in suite.panels]
    if plot_path is not None and plot_path.suffix not in (".svg", ".png", ".pdf"):
        raise LabError(f"--plot: got {plot_path}; accepted: a name that ends in .svg, .png or .pdf")
    if plot_path is not None and not pictured:
        raise LabError(f"--plot: --only leaves no part that has a picture; those are {', '.join(suite.panels)}")
    if threads is not None:
        if threads < 1:
            raise LabError(f"--threads: got {threads}; accepted: integers >= 1")
        torch.set_num_threads(threads)

    console = Console()
    about = machine()
    console.print(*(f"[dim]{key}[/dim] {value}" for key, value in about.items()), sep="   ")
    rows: dict[str, Rows] = {}
    seconds: dict[str, float] = {}
    with console.status("") as status:
        for part in wanted:
            status.update(part)
            start = time.perf_counter()
            rows[part] = parts[part].measure(lambda text: status.update(f"{part}: {text}"))  # noqa: B023
            seconds[part] = round(time.perf_counter() - start, 1)
            console.print(*parts[part].show(rows[part]), sep="\n")
    console.print("[dim]seconds[/dim]", *(f"{part} {value:.0f}" for part, value in seconds.items()), sep="   ")
    results = {"suite": name, "machine": about, "settings": dataclasses.asdict(settings), "seconds": seconds, **rows}
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"Figures: {json_path}")
    if plot_path is not None:
        plot_path.parent.mkdir(parents=True, exist_ok=True)
        draw([(suite.panels[part], rows[part]) for part in pictured], plot_path)
        console.print(f"Plot: {plot_path}")
    return results


def _suite(name: str) -> Suite:
    if name not in SUITES:
        raise LabError(f"--suite: there is no suite {name!r}; accepted: {', '.join(SUITES)}")
    return SUITES[name]


def _settings(name: str, suite: Suite, options: Mapping[str, Any]) -> Any:
    known = [field.name for field in dataclasses.fields(suite.settings)]
    for option in options:
        if option not in known:
            accepted = ", ".join(f"--{field}" for field in known)
            raise LabError(f"--{option}: suite {name!r} does not take it; accepted there: {accepted}")
    return suite.settings(**options)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    chosen = next((b for b in backends() if b.chosen), None)
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return gpu | {
        "cpu": processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "backend": f"{chosen.name} ({chosen.reason})" if chosen else "none",
    }
