"""What the `bench` command does."""

import json
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from streammix import backends
from streammix.lab.errors import LabError

from . import projection
from .logits import FAMILIES
from .memory import memory
from .plot import plot
from .tables import accuracy_table, cost_table, speed_tables

Results = dict[str, Any]


def bench(
    *,
    n: int,
    batches: list[int],
    families: list[str],
    turns: int,
    compile: bool,
    threads: int | None,
    only: list[str],
    json_path: Path | None,
    plot_path: Path | None,
) -> Results:
    """Measure, print tables as they are ready, and write JSON and plot where asked for."""
    parts = ["accuracy", "memory", "speed", "sizes", "scales"]
    for part in only:
        if part not in parts:
            raise LabError(f"--only: there is no part {part!r}; accepted: {', '.join(parts)}")
    for family in families:
        if family not in FAMILIES:
            raise LabError(f"--family: there is no family {family!r}; accepted: {', '.join(FAMILIES)}")
    if n < 1 or turns < 1 or not batches or min(batches) < 1 or (threads is not None and threads < 1):
        raise LabError("--n, --batch, --turns and --threads take integers >= 1")
    if plot_path is not None and plot_path.suffix not in (".svg", ".png", ".pdf"):
        raise LabError(f"--plot: got {plot_path}; accepted: a name that ends in .svg, .png or .pdf")
    if threads is not None:
        torch.set_num_threads(threads)

    console = Console()
    results: Results = {"machine": machine()}
    console.print(*(f"[dim]{key}[/dim] {value}" for key, value in results["machine"].items()), sep="   ")
    wanted = only or parts
    with console.status("accuracy") as status:
        if "accuracy" in wanted:
            results["accuracy"] = projection.accuracy(n=n)
            console.print(accuracy_table(results["accuracy"]))
        if "memory" in wanted:
            status.update("memory")
            results["memory"] = memory(n=n)
            for row in results["memory"]:
                peak, beyond = row["peak"] / 1e6, row["beyond"] / 1e6
                console.print(
                    f"{row['contender']}, forward + backward of {row['batch']:,} matrices: peak {peak:,.1f} MB,"
                    f" {beyond:,.1f} MB beyond logits, matrices and their gradients"
                )
        if "speed" in wanted:
            results["speed"] = projection.speed(
                n=n,
                batches=batches,
                families={name: FAMILIES[name] for name in families},
                turns=turns,
                compile=compile,
                progress=lambda text: status.update(f"run time: {text}"),
            )
            for table in speed_tables(results["speed"]):
                console.print(table)
        if "sizes" in wanted:
            status.update("run time against n")
            results["by_size"] = projection.by_size(turns=turns)
            console.print(cost_table(results["by_size"], "n", "Nanoseconds a matrix by n, batch 8,192, N(0,1)"))
        if "scales" in wanted:
            status.update("run time against the logits' scale")
            results["by_scale"] = projection.by_scale(turns=turns)
            title = "Nanoseconds a matrix by the logits' standard deviation, batch 8,192, n = 4"
            console.print(cost_table(results["by_scale"], "scale", title))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"Figures: {json_path}")
    if plot_path is not None:
        plot(results, plot_path)
        console.print(f"Plot: {plot_path}")
    return results


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    chosen = next((b for b in reversed(backends()) if b.chosen), None)
    return {
        "cpu": _cpu_model(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "backend": f"{chosen.name} ({chosen.reason})" if chosen else "none",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
