"""The command line. Commands import what they need when they run, so that --help is quick."""

import dataclasses
import io
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from streammix.bench.commands import benchmarks
from streammix.lab.config import Config, read_config
from streammix.lab.errors import LabError
from streammix.lab.experiment.commands import experiments
from streammix.lab.options import takes_config
from streammix.lab.scale import launched, options, rank_of_launch
from streammix.lab.telling import stoppable, tell

app = typer.Typer(
    help="Hyper-connections for PyTorch: train, compare, inspect and measure them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

OUT_HELP = "Folder of the results; must be new, or hold what is to be continued."


@app.command(epilog="Example: [bold]streammix train ~/books --recipe hc --steps 2000 --out runs/books[/bold]")
@takes_config()
def train(
    settings: dict[str, Any],
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help=OUT_HELP)] = Path("runs/train"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out, with its settings; if none is there, start it."),
    ] = False,
    parallel: options.Parallel = None,
    accumulate: options.Accumulate = None,
    checkpoint_activations: options.CheckpointActivations = False,
    recompute: options.Recompute = None,
    timeout: options.Timeout = None,
) -> None:
    """Train one small byte-level language model.

    Writes config.json, metrics.jsonl, tensorboard/, checkpoints/ and summary.json to --out. A run that was stopped,
    by Ctrl-C or a crash, goes on with --resume as if it had not been. On several processes:
    torchrun --nproc-per-node 2 -m streammix train --parallel fsdp.
    """
    from streammix.lab.training.train import train as run

    saved = out / "config.json"
    if resume and saved.exists():
        config = dataclasses.replace(read_config(saved), **given)
    else:
        config = Config(**settings)
    scale = options.chosen(
        checkpoint_activations, parallel=parallel, accumulate=accumulate, recompute=recompute, timeout=timeout
    )
    with stoppable(f"the same command with --resume continues {out}"):
        if scale is None:
            summary = run(config, out, resume=resume)
        else:
            from streammix.lab.scale.train import train as run_together

            summary = run_together(config, out, scale, resume=resume)
    tell(
        f"{summary['recipe']}: validation loss {summary['val_loss']:.4f} nats a token after {config.steps} steps"
        f" ({summary['bits_per_byte']:.4f} bits a byte),"
        f" {summary['parameters']:,} parameters, {summary['tokens_per_s']:,.0f} tokens/s; in {out}"
    )


@app.command(epilog="Example: [bold]streammix compare --recipes residual,mhc --steps 1000 --out runs/mine[/bold]")
@takes_config("recipe")
def compare(
    settings: dict[str, Any],
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help=OUT_HELP)] = Path("runs/compare"),
    recipes: Annotated[
        str, typer.Option("--recipes", "--recipe", help="What to compare, by commas: residual, recipes' names, or all.")
    ] = "residual,hc,mhc,mhc-sinkhorn,ohc",
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the runs there and train again.")] = False,
) -> None:
    """Train several recipes on the same text, seed and budget, and report.

    Each run goes to its own folder in --out; report.html compares them. The same command again continues what was
    stopped and does not repeat what is finished.
    """
    from streammix.lab import compare as comparison
    from streammix.lab.report import write_report

    names = words(recipes, "--recipes")
    with stoppable(f"the same command continues {out}" + " (without --fresh)" * fresh):
        result = comparison.compare(Config(**settings), names, out, fresh=fresh)
    comparison.print_table(result)
    tell(f"Report: {write_report(out)}")


@app.command(epilog="Example: [bold]streammix sweep --precisions float32,bf16 --out runs/sweep[/bold]")
@takes_config("recipe", "seed", "bf16", preset="sweep")
def sweep(
    settings: dict[str, Any],
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help=OUT_HELP)] = Path("runs/sweep"),
    recipes: Annotated[
        str, typer.Option("--recipes", "--recipe", help="What to train, by commas: residual, recipes' names, or all.")
    ] = "all",
    seeds: Annotated[str, typer.Option(help="By commas; each is one run of every recipe.")] = "0,1,2",
    precisions: Annotated[str, typer.Option(help="By commas: float32, bf16 (autocast).")] = "float32",
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the runs there and train again.")] = False,
) -> None:
    """Train every recipe with several seeds and set mean and spread of the results in one table.

    A run that fails is named at the end and does not stop the others. The same command again continues what was
    stopped, tries again what failed, and does not repeat what is finished. OUT/sweep.html is a page of the table, of
    curves with a band over seeds, and of every run; OUT/sweep.json holds every figure, OUT/sweep.md the table.
    """
    from streammix.lab import sweep as sweeping
    from streammix.lab import sweep_tables
    from streammix.lab.report import sweep_folder, sweep_page

    names, kinds = words(recipes, "--recipes"), words(precisions, "--precisions")
    numbers = words(seeds, "--seeds")
    with stoppable(f"the same command continues {out}" + " (without --fresh)" * fresh):
        result = sweeping.sweep(settings, names, numbers, kinds, out, fresh=fresh)
    sweep_tables.print_tables(result)
    tell(f"Figures: {out / sweep_folder.NAME}, tables: {out / sweeping.MARKDOWN}")
    tell(f"Page: {out / sweep_page.PAGE}")
    if result["failed"]:
        raise LabError("; ".join(f"{place}: {why}" for place, why in result["failed"].items()))


def words(text: str, option: str) -> list[str]:
    """The words of an option that takes several, by commas."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise LabError(f"{option} is empty; accepted: words separated by commas")
    return found


@app.command(epilog="Example: [bold]streammix report runs/small runs/large --out runs/report.html[/bold]")
def report(
    folders: Annotated[list[Path], typer.Argument(help="Runs, or folders that hold runs, as compare and sweep do.")],
    out: Annotated[Path, typer.Option(help="The page to write, in a folder that exists.")] = Path("runs/report.html"),
) -> None:
    """Put any number of runs on one page.

    Runs that differ in their seed alone are one line in a band; those that differ in the learning rate too are compared
    by it. Curves are by step, tokens or time; what the streams did while training has a slider. The page is one HTML
    file, which needs no network.
    """
    from streammix.lab.report.runs_page import write_runs

    tell(f"Page: {write_runs(folders, out)}")


@app.command(epilog="Example: [bold]streammix inspect runs/train[/bold]")
def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run's folder: its newest checkpoint.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page.")] = None,
) -> None:
    """Show what a trained model's read, write and mix maps look like."""
    from streammix.lab.report.terminal import inspect_checkpoint

    inspect_checkpoint(checkpoint, out)


@app.command(epilog="Example: [bold]streammix sample runs/train --prompt 'def ' --bytes 400[/bold]")
def sample(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run's folder: its newest checkpoint.")],
    prompt: Annotated[str, typer.Option(help="What the text begins with.")] = "",
    count: Annotated[int, typer.Option("--bytes", help="How many bytes follow the prompt.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="Below 1 likely bytes become likelier; 0 always takes the likeliest.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Let a trained model write text."""
    from streammix.lab.sample import sample as draw

    tell(draw(checkpoint, prompt, count=count, temperature=temperature, seed=seed))


@app.command(epilog="Example: [bold]streammix data ~/books --out data/books --tokenizer bpe.json --workers 4[/bold]")
def data(
    out: Annotated[Path, typer.Option(help="Folder of the data; new, or where it goes on.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Text, .jsonl and .parquet, also .gz and .zst, and folders of these.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="bytes, or a tokenizer.json file.")] = "bytes",
    separator: Annotated[
        str | None, typer.Option(help="The token between texts; if not given, the tokenizer's own end of text.")
    ] = None,
    field: Annotated[str, typer.Option(help="Where JSON lines, Parquet and data sets have the text.")] = "text",
    dataset: Annotated[str | None, typer.Option(help="A data set, streamed by the package datasets.")] = None,
    subset: Annotated[str | None, typer.Option(help="The data set's configuration.")] = None,
    split: Annotated[str, typer.Option(help="The data set's part.")] = "train",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    verify: Annotated[bool, typer.Option("--verify", help="Only compare every file in --out with its hash.")] = False,
) -> None:
    """Tokenise text of any size once, into a folder that every other command takes as text.

    What was stopped goes on with the same command; finished shards are kept. Every 20th block of text is held out.
    """
    from streammix.lab.data.making import make_shards
    from streammix.lab.text.shards import open_folder

    if verify:
        made = open_folder(out, verify=True)
    else:
        options = {"split": split} | ({} if subset is None else {"name": subset})
        with stoppable(f"the same command continues {out}"):
            made = make_shards(
                files or [],
                out,
                tokenizer=tokenizer,
                separator=separator,
                field=field,
                dataset=dataset,
                dataset_options=options,
                workers=workers,
                tell=tell,
            )
    assert made.bytes is not None  # data shards count the bytes of their text
    tell(
        f"{out}: {len(made.train):,} tokens to train on, {len(made.val):,} held out, vocabulary {made.vocabulary:,},"
        f" {sum(made.bytes):,} bytes of text"
    )


app.add_typer(experiments, name="experiment")
app.add_typer(benchmarks, name="bench")


def with_a_suite(arguments: list[str]) -> list[str]:
    """`bench` without a command is `bench projection`; `bench --suite NAME`, as it was called before, `bench NAME`."""
    if arguments[:1] != ["bench"] or {"-h", "--help"} & set(arguments[1:2]):
        return arguments
    rest = arguments[1:]
    if rest and not rest[0].startswith("-"):
        return arguments
    if "--suite" in rest[:-1]:
        at = rest.index("--suite")
        return ["bench", rest[at + 1], *rest[:at], *rest[at + 2 :]]
    return ["bench", "projection", *rest]


def main() -> None:
    """Run the command line; every mistake of the user ends as one line on stderr and exit code 2."""
    for name in ("SIGTERM", "SIGHUP"):  # a scheduler's or a closed terminal's way of saying Ctrl-C
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of ASCII shows a question mark for what it lacks
    if launched():
        leave_together()
    code = run()
    forget_closed_output()
    sys.exit(code)


def leave_together() -> NoReturn:
    """As one of several processes: end at once, whatever threads are waiting for processes that are gone.

    gloo's threads, besides, abort a process now and then that takes its libraries down.
    """
    code = 1
    try:
        code = run()
        forget_closed_output()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def forget_closed_output() -> None:
    """Without a word at exit about output that nobody reads any more."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: list[str] | None = None) -> int:
    """The exit code of a command line, having printed its errors."""
    usage_error = typer.BadParameter.__base__  # which typer does not export
    try:
        return app(with_a_suite(sys.argv[1:] if arguments is None else arguments), standalone_mode=False) or 0
    except LabError as error:
        return fail(str(error))
    except usage_error as error:  # type: ignore[misc]
        message = error.format_message()  # none where no command was given, and the help has been shown
        return fail(message) if message else 2
    except BrokenPipeError:
        return 0  # whoever read the output has seen enough
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate" in str(error) or "out of memory" in str(error):
            return fail(f"not enough memory ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
        raise


def fail(message: str) -> int:
    if not rank_of_launch():
        typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2


if __name__ == "__main__":
    main()
