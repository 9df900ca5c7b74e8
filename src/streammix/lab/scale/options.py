"""Scale's fields as options of the command line."""

from typing import Annotated, Any

import typer

from streammix.lab.scale.settings import PARALLEL, Scale, launched

PANEL = "Several processes (torchrun), and memory"
MEANINGS = "; ".join(f"{name}: {meaning}" for name, meaning in PARALLEL.items())

Parallel = Annotated[
    str | None, typer.Option(help=f"How the model is spread. {MEANINGS}. By default ddp.", rich_help_panel=PANEL)
]
Accumulate = Annotated[
    int | None,
    typer.Option(help="Parts that a process takes its rows of a batch in, one after the other.", rich_help_panel=PANEL),
]
CheckpointActivations = Annotated[
    bool,
    typer.Option("--checkpoint-activations", help="Run branches twice, to keep less memory.", rich_help_panel=PANEL),
]
Recompute = Annotated[
    str | None,
    typer.Option(
        help="Keep the streams before every so manieth site only, or before few: auto.", rich_help_panel=PANEL
    ),
]
Timeout = Annotated[
    int | None, typer.Option(help="Seconds that a process waits for another; 600.", rich_help_panel=PANEL)
]


def chosen(checkpoint_activations: bool, **others: Any) -> Scale | None:
    """The scale that the command line asks for; None for one process of which nothing is asked.

    Raises:
        LabError: a value is out of range or unknown.
    """
    asked = {name: value for name, value in others.items() if value is not None}
    if checkpoint_activations:
        asked["checkpoint_activations"] = True
    return Scale(**asked) if asked or launched() else None
