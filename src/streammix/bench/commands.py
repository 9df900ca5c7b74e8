"""The commands `streammix bench projection`, `digits`, `site`, `transport`, `compat` and `device`."""

from pathlib import Path
from typing import Annotated, Any

import typer

benchmarks = typer.Typer(
    help="Measure what the library costs, against what people use instead. Without a command: projection.",
    rich_markup_mode="rich",
    no_args_is_help=False,
)
BATCHES, FAMILIES, DIMS = [512, 2048, 8192, 32768, 131072], ["N(0,1)", "N(0,10^2)"], [512, 1024]

Only = Annotated[list[str] | None, typer.Option(help="A part; may be repeated. If it is not given, all parts run.")]
Rows = Annotated[int, typer.Option("--n", help="Streams, which are the rows of the matrices.")]
Compile = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Also measure under torch.compile (needs a C++ compiler).")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads; if not given, torch chooses.")]
Json = Annotated[Path | None, typer.Option(help="Write all figures to this file.")]
Plot = Annotated[Path | None, typer.Option(help="Draw them: a name ending in .svg, .png or .pdf.")]


@benchmarks.command(
    epilog="Parts: accuracy, memory, speed, sizes, scales."
    " Example: [bold]streammix bench projection --only speed --batch 8192[/bold]"
)
def projection(
    only: Only = None,
    n: Rows = 4,
    batch: Annotated[list[int], typer.Option(help="Matrices at once; may be repeated.")] = BATCHES,
    family: Annotated[
        list[str], typer.Option(help="Logits to time on, Unif(-10,10), say; may be repeated.")
    ] = FAMILIES,
    turns: Annotated[int, typer.Option(help="Samples of each contender; the median counts.")] = 15,
    compiled: Compile = True,
    threads: Threads = None,
    json: Json = None,
    plot: Plot = None,
) -> None:
    """How exact the projection is, and how fast against truncated Sinkhorn."""
    settings = {"n": n, "batch": tuple(batch), "family": tuple(family), "turns": turns, "compile": compiled}
    measure("projection", settings, only, threads, json, plot)


@benchmarks.command(epilog="Example: [bold]streammix bench digits --n 8 --plot digits.svg[/bold]")
def digits(
    n: Rows = 4,
    count: Annotated[int, typer.Option(help="Matrices of each gap.")] = 2_000,
    threads: Threads = None,
    json: Json = None,
    plot: Plot = None,
) -> None:
    """How many digits of every entry are right, against the gap between the logits."""
    measure("digits", {"n": n, "count": count}, None, threads, json, plot)


@benchmarks.command(
    epilog="Parts: streams, site, recipes, step, decoding, diagnostics, memory."
    " Example: [bold]streammix bench site --only step --dim 512 --plot step.svg[/bold]"
)
def site(
    only: Only = None,
    n: Rows = 4,
    dim: Annotated[list[int], typer.Option(help="Width of the models and of the single site; may be repeated.")] = DIMS,
    turns: Annotated[int, typer.Option(help="Samples of a training step; of everything else three times as many.")] = 5,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Of the part recipes; may be repeated. If it is not given, all.")
    ] = None,
    compiled: Compile = True,
    threads: Threads = None,
    json: Json = None,
    plot: Plot = None,
) -> None:
    """What hyper-connections cost in time and memory against a plain residual."""
    settings = {"n": n, "dim": tuple(dim), "turns": turns, "compile": compiled, "recipe": tuple(recipe or ())}
    measure("site", settings, only, threads, json, plot)


@benchmarks.command(
    epilog="Parts: copy, projection, site, step. Example: [bold]streammix bench device --json gpu.json[/bold]"
)
def device(
    only: Only = None,
    device: Annotated[str, typer.Option(help="cuda (ROCm too), or cpu, in small, to try it out.")] = "cuda",
    n: Rows = 4,
    turns: Annotated[int, typer.Option(help="Samples of each contender; the median counts.")] = 7,
    compiled: Compile = True,
    json: Json = None,
) -> None:
    """What the kernels cost on a GPU, against plain and compiled formulas and a copy."""
    measure("device", {"device": device, "n": n, "turns": turns, "compile": compiled}, only, None, json, None)


@benchmarks.command(
    epilog="Parts: accuracy, speed, memory. POT is measured where it is installed."
    " Example: [bold]streammix bench transport --only speed --problem 'random 4 x 4' --threads 1[/bold]"
)
def transport(
    only: Only = None,
    problem: Annotated[
        list[str] | None, typer.Option(help="'routing 64 x 8', say; may be repeated. If it is not given, all.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Matrices at once; if it is not given, the problem's own.")] = None,
    turns: Annotated[int, typer.Option(help="Samples of each contender; the median counts.")] = 7,
    compiled: Compile = True,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """How exact and fast plans with given marginals are, against POT and unrolled Sinkhorn."""
    settings = {"problem": tuple(problem or ()), "count": count, "turns": turns, "compile": compiled}
    measure("transport", settings, only, threads, json, None)


@benchmarks.command(epilog="Example: [bold]streammix bench compat --dim 512 --dim 1024 --threads 1[/bold]")
def compat(
    dim: Annotated[list[int], typer.Option(help="Width of the streams; may be repeated.")] = DIMS[:1],
    turns: Annotated[int, typer.Option(help="Samples of each model; the median counts.")] = 15,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """What the PyPI package hyper-connections takes, and its names on our operators."""
    measure("compat", {"dim": tuple(dim), "turns": turns}, None, threads, json, None)


def measure(
    suite: str,
    options: dict[str, Any],
    only: list[str] | None,
    threads: int | None,
    json: Path | None,
    plot: Path | None,
) -> None:
    from streammix.bench.run import bench

    bench(suite, options=options, threads=threads, only=only or [], json_path=json, plot_path=plot)
