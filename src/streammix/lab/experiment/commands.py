"""The commands `streammix experiment plan`, `run` and `table`."""

from pathlib import Path
from typing import Annotated

import typer

from streammix.lab.telling import stoppable, tell

experiments = typer.Typer(
    help="Run what a TOML file describes, with any number of workers, and put the results in tables.",
    rich_markup_mode="rich",
    no_args_is_help=True,
)
File = Annotated[Path, typer.Argument(help="A TOML file; the documentation says what it may hold.")]


@experiments.command(epilog="Example: [bold]streammix experiment plan experiments/connections.toml[/bold]")
def plan(file: File) -> None:
    """Say what an experiment would train, and check its file."""
    from streammix.lab.experiment.plan import describe
    from streammix.lab.experiment.reading import read_experiment
    from streammix.lab.sizes import count_parameters

    experiment = read_experiment(file)
    tokens = 0
    for case in experiment.cases:
        config, rest = case.config, len(experiment.seeds) - len(experiment.tuning)
        runs = len(experiment.tuning) * len(case.lrs) + rest
        tokens += runs * config.steps * config.batch * config.context
        place = ", ".join(word for word in (case.group, case.label) if word)
        width = f", MLP {config.mlp_width} wide" if config.mlp_width else ""
        rates = ", ".join(map(describe, case.lrs))
        tell(f"{place}: {count_parameters(config):,} parameters{width}; learning rates {rates}; {runs} runs")
    tell(f"{experiment.count()} runs, {tokens:,} tokens in all")


@experiments.command(
    epilog="Example: [bold]streammix experiment run experiments/connections.toml --out runs/connections[/bold]"
)
def run(
    file: File,
    out: Annotated[Path, typer.Option(help="Folder of the experiment; new, or where it goes on.")],
    workers: Annotated[int, typer.Option(help="Runs at once on this machine, which share its threads.")] = 1,
    lease: Annotated[
        float, typer.Option(help="Seconds after which the run of another machine that gives no sign is taken over.")
    ] = 120.0,
    update: Annotated[
        bool, typer.Option("--update", help="Go on although the file has changed; results that still count are kept.")
    ] = False,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Leave the trained models in the runs' folders.")
    ] = False,
) -> None:
    """Train every run that has no result yet.

    The same command in another terminal, or on another machine that shares the folder, shares the work. What was
    stopped, however, goes on with the same command; no run is trained twice. OUT/results.jsonl has one line for each
    run, OUT/table.md the table.
    """
    from streammix.lab.experiment.reading import read_experiment
    from streammix.lab.experiment.results import TOML
    from streammix.lab.experiment.running import run_experiment

    experiment = read_experiment(file)
    try:
        with stoppable(f"the same command continues {out}"):
            run_experiment(
                experiment,
                out,
                workers=workers,
                lease=lease,
                update=update,
                keep_checkpoints=keep_checkpoints,
                tell=tell,
            )
    finally:
        if (out / TOML).exists():
            show(out)


@experiments.command(epilog="Example: [bold]streammix experiment table runs/connections[/bold]")
def table(out: Annotated[Path, typer.Argument(help="The folder of an experiment.")]) -> None:
    """Print what an experiment has found so far, and write OUT/table.md, OUT/table.json and OUT/results.jsonl."""
    show(out)


def show(out: Path) -> None:
    from streammix.lab.experiment.markdown import markdown
    from streammix.lab.experiment.results import read_folder, write_results
    from streammix.lab.experiment.tables import summarise
    from streammix.lab.files import replace_file, write_json

    experiment, results = read_folder(out)
    made = summarise(experiment, results)
    text = markdown(made)
    write_results(out, experiment)
    write_json(out / "table.json", made)
    replace_file(out / "table.md", text.encode())
    tell(text)
