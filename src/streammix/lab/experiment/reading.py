"""An experiment's TOML file: what it may say, and errors that name what it should not."""

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from streammix.lab.config import OF_STREAMS, RESIDUAL, Config, choices
from streammix.lab.errors import LabError
from streammix.lab.experiment.matching import same_parameters
from streammix.lab.experiment.plan import Case, Experiment, describe
from streammix.lab.sizes import count_parameters

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MATCH = "same_parameters_as"
OWN = ("text", "recipe", "lr", "seed")  # what the file says elsewhere than among settings
SETTINGS = tuple(field.name for field in dataclasses.fields(Config) if field.name not in OWN)
KEYS: dict[str, type] = dict.fromkeys(("title", "about"), str)
KEYS |= dict.fromkeys(("text", "recipes", "compared_with", "lrs", "seeds"), list)
KEYS |= {"tuning_seeds": int} | dict.fromkeys(("arms", "settings", "sizes", "axes"), dict)


def read_experiment(path: Path) -> Experiment:
    """The experiment of a TOML file; see docs/experiments.md for what it may hold.

    Raises:
        LabError: there is no such file, it is no TOML, or a value in it is not accepted; names the key and the value.
    """
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LabError(f"{path}: no such file") from None
    except (IsADirectoryError, UnicodeDecodeError):
        raise LabError(f"{path}: not a TOML file") from None
    try:
        return parse(source, path.absolute().parent)
    except LabError as error:
        raise LabError(f"{path}: {error}") from None


def parse(source: str, folder: Path) -> Experiment:
    """The experiment of a TOML document whose relative paths start at `folder`."""
    try:
        table = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise LabError(f"not valid TOML ({error})") from None
    for key, value in table.items():
        if key not in KEYS:
            raise LabError(f"{key}: unknown; accepted: {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]) or isinstance(value, bool):
            raise LabError(f"{key}: got {value!r}; accepted: {NAMES[KEYS[key]]}")
    seeds = distinct(table, "seeds", int)
    for seed in seeds:
        Config(seed=seed)  # numbers that no generator takes
    tuning = table.get("tuning_seeds", len(seeds))
    if not 1 <= tuning <= len(seeds):
        raise LabError(f"tuning_seeds: got {tuning}; accepted: 1 to {len(seeds)}, the number of seeds")
    arms = arms_of(table)
    text = tuple(os.path.abspath(folder / name) for name in distinct(table, "text", str, default=()))
    cases = tuple(cases_of(table, arms, text))
    accepted = tuple(dict.fromkeys([*arms, *(case.label for case in cases)]))
    compared_with = distinct(table, "compared_with", str, default=accepted[:1])
    for name in compared_with:
        if name not in accepted:
            raise LabError(f"compared_with: got {name!r}; accepted: {', '.join(accepted)}")
    title, about = table.get("title", "Experiment"), " ".join(table.get("about", "").split())
    return Experiment(title, about, cases, seeds, seeds[:tuning], compared_with, text, source)


NAMES = {str: "a string", list: "a list", dict: "a table", int: "an integer", float: "a number"}


def distinct(table: Mapping[str, Any], key: str, kind: type, default: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
    """A list of the file, of values of one kind, each once."""
    if key not in table and default is not None:
        return default
    values = table.get(key)
    kinds = (float, int) if kind is float else kind
    if not isinstance(values, list) or not (values or default == ()):
        raise LabError(f"{key}: got {values!r}; accepted: a list of one or more values")
    for value in values:
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise LabError(f"{key}: got {value!r}; accepted: {NAMES[kind]}")
        if values.count(value) > 1:
            raise LabError(f"{key}: got {value!r} twice; accepted: each value once")
    return tuple(map(kind, values))


def arms_of(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each arm: those of `recipes`, then those of `arms`."""
    arms: dict[str, dict[str, Any]] = {}
    for name in distinct(table, "recipes", str, default=()):
        arms[name] = {"recipe": name}
    for name, settings in table.get("arms", {}).items():
        if name in arms:
            raise LabError(f"arms.{name}: is also among the recipes; accepted: each name once")
        if not isinstance(settings, dict):
            raise LabError(f"arms.{name}: got {settings!r}; accepted: a table")
        check_settings(f"arms.{name}", settings, also=("recipe", MATCH))
        arms[name] = {"recipe": settings.get("recipe", name), **settings}
    if not arms:
        raise LabError("recipes: none; accepted: one or more recipes, or tables [arms.NAME]")
    for name, settings in arms.items():
        if settings["recipe"] not in choices():
            where = "recipes" if name in table.get("recipes", ()) else f"arms.{name}"
            raise LabError(f"{where}: recipe is {settings['recipe']!r}; accepted: {', '.join(choices())}")
        if settings.get(MATCH, name) not in arms:
            raise LabError(f"arms.{name}: {MATCH} is {settings[MATCH]!r}; accepted: {', '.join(arms)}")
        if MATCH in settings and (settings[MATCH] == name or MATCH in arms[settings[MATCH]]):
            raise LabError(f"arms.{name}: {MATCH} is {settings[MATCH]!r}; accepted: an arm whose width is not matched")
        if MATCH in settings and "mlp_width" in settings:
            raise LabError(f"arms.{name}: got mlp_width and {MATCH}; accepted: one of them")
    return arms


def check_settings(where: str, settings: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    for key in settings:
        if key not in SETTINGS and key not in also:
            raise LabError(f"{where}: got {key!r}; accepted: {', '.join((*SETTINGS, *also))}")


def cases_of(table: Mapping[str, Any], arms: Mapping[str, dict[str, Any]], text: tuple[str, ...]) -> Iterator[Case]:
    """Every size with every value of every axis and every arm; plain residuals take no axis that is about streams."""
    common, axes = table.get("settings", {}), axes_of(table, arms)
    check_settings("settings", common)
    shared = {name: values for name, values in axes.items() if name not in OF_STREAMS}
    of_streams = {name: values for name, values in axes.items() if name in OF_STREAMS}
    for size, own in sizes_of(table).items():
        lrs = distinct(own if "lrs" in own else table, "lrs", float)
        size_settings = {name: value for name, value in own.items() if name != "lrs"}
        for values in itertools.product(*shared.values()):
            inherited = common | size_settings | dict(zip(shared, values))
            group = " ".join(word for word in (size, label(dict(zip(shared, values)))) if word)
            made: list[Case] = []
            for name, settings in arms.items():
                for place in crossed(settings["recipe"], of_streams):
                    merged = inherited | place | settings
                    merged.pop(MATCH, None)
                    where = " ".join(word for word in (group, name, label(place)) if word)
                    made.append(Case(group, name, label(place), config_of(where, merged, text, lrs), lrs))
            yield from same_parameters(made, {name: arm[MATCH] for name, arm in arms.items() if MATCH in arm})


def axes_of(table: Mapping[str, Any], arms: Mapping[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    axes = table.get("axes", {})
    check_settings("axes", axes)
    for axis, values in axes.items():
        if not isinstance(values, list) or not values or any(values.count(value) > 1 for value in values):
            raise LabError(f"axes.{axis}: got {values!r}; accepted: a list of values, each once")
        for where, settings in (("settings", table.get("settings", {})), *((f"arms.{n}", s) for n, s in arms.items())):
            if axis in settings:
                raise LabError(f"{where}: got {axis}, which is also an axis; accepted: one of them")
    return {axis: tuple(values) for axis, values in axes.items()}


def sizes_of(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each size, which may have learning rates of its own; one without a name where none is given."""
    sizes = table.get("sizes", {})
    for name, settings in sizes.items():
        if not isinstance(settings, dict):
            raise LabError(f"sizes.{name}: got {settings!r}; accepted: a table")
        check_settings(f"sizes.{name}", settings, also=("lrs",))
        for axis in table.get("axes", {}):
            if axis in settings:
                raise LabError(f"sizes.{name}: got {axis}, which is also an axis; accepted: one of them")
    return sizes or {"": {}}


def crossed(recipe: str, axes: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Each combination of the axes; none for plain residuals."""
    if recipe == RESIDUAL:
        yield {}
    else:
        yield from (dict(zip(axes, values)) for values in itertools.product(*axes.values()))


def label(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={describe(value)}" for name, value in settings.items())


def config_of(where: str, settings: dict[str, Any], text: tuple[str, ...], lrs: tuple[float, ...]) -> Config:
    if settings["recipe"] == RESIDUAL:
        settings = {name: value for name, value in settings.items() if name not in OF_STREAMS}
    try:
        for lr in lrs:
            config = Config(**settings, text=text, lr=lr)
        count_parameters(config)  # what a recipe cannot take is said now
    except LabError as error:
        raise LabError(f"{where}: {error}") from None
    return config
