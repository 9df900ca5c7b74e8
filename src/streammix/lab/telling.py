"""What commands print, and how they end when they are stopped."""

import contextlib
import os
import sys
from collections.abc import Iterator

import typer

from streammix.lab.scale import rank_of_launch


@contextlib.contextmanager
def stoppable(hint: str) -> Iterator[None]:
    """End on Ctrl-C with the customary exit code 130 and a word on how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not rank_of_launch():
            typer.echo(f"{str(stop) or 'stopped'}; {hint}", err=True)
        raise typer.Exit(130) from None


def tell(message: str) -> None:
    """Print a result; whoever has stopped reading (`| head -1`) has lost nothing else."""
    if rank_of_launch():
        return  # the first process says it
    try:
        typer.echo(message)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
