"""Config's fields as command-line options."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from streammix.lab.config import PRESETS, Config
from streammix.lab.errors import LabError

FIELDS = {field.name: field for field in dataclasses.fields(Config) if field.name != "text"}


def takes_config(*without: str, preset: str = "demo") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: replace a command's `settings` argument by the text, --preset, and an option for each Config field.

    The command receives `settings` as a dict of what the command line sets, the preset's values included, and
    `given`, the options that the user typed. `without` names fields that get no option, `preset` the default one.
    """

    default_preset = preset

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name not in ("settings", "given")]
        fields = [field for name, field in FIELDS.items() if name not in without]

        @functools.wraps(command)
        def run(ctx: typer.Context, text: list[Path] | None, preset: str, **values: Any) -> None:
            if preset not in PRESETS:
                raise LabError(f"--preset is {preset!r}; accepted: {', '.join(PRESETS)}")
            sources = {name: ctx.get_parameter_source(name) for name in values}
            typed = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
            given = {field.name: values.pop(field.name) for field in fields}
            given = {name: value for name, value in given.items() if name in typed}
            if text:
                given["text"] = tuple(str(path.absolute()) for path in text)
            command(settings=PRESETS[preset] | given, given=given, **values)

        parameters = [
            inspect.Parameter("ctx", KEYWORD, annotation=typer.Context),
            parameter("text", list[Path] | None, None, typer.Argument(help=TEXT_HELP, show_default=False)),
            *(p.replace(kind=KEYWORD) for p in own),
            parameter("preset", str, default_preset, typer.Option(help=PRESET_HELP)),
        ]
        for field in fields:
            about = typer.Option(help=field.metadata["help"], rich_help_panel=field.metadata["panel"])
            parameters.append(parameter(field.name, field.type, field.default, about))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


KEYWORD = inspect.Parameter.KEYWORD_ONLY
TEXT_HELP = "Text files and folders to train on. By default: the sources of Python's standard library."
PRESET_HELP = f"Settings for all options not given: {', '.join(PRESETS)}. The defaults shown are the demo's."


def parameter(name: str, kind: Any, default: Any, about: Any) -> inspect.Parameter:
    return inspect.Parameter(name, KEYWORD, default=default, annotation=Annotated[kind, about])
