"""What was run, on what, and where: the small print of a report."""

import dataclasses
import os
import platform
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import torch

import streammix
from streammix.lab.config import PRESETS, RESIDUAL, Config, option
from streammix.lab.machine import processor
from streammix.lab.report.comparison import Comparison, Run
from streammix.lab.report.sweep_folder import Sweep


def about(comparison: Comparison) -> dict[str, str]:
    """The footer's lines for one comparison."""
    config = settings(comparison.runs)
    rows = {}
    if config:
        rows["Command"] = command(comparison, config)
        rows |= training(config, "bfloat16 autocast" if config.bf16 else "float32", f"seed {config.seed}")
    return rows | surroundings(comparison.data, config)


def about_sweep(sweep: Sweep) -> dict[str, str]:
    """The footer's lines for a sweep, whose runs differ in recipe, seed and precision alone."""
    config = settings(sweep.runs())
    rows = {}
    if config:
        rows["Command"] = sweep_command(sweep, config)
        seeds = ", ".join(map(str, sweep.seeds))
        rows |= training(config, " and ".join(sweep.precisions), f"seed{'s' * (len(sweep.seeds) > 1)} {seeds}")
    data = next((one.data for one in sweep.comparisons.values() if one.data), {})
    return rows | surroundings(data, config)


def settings(runs: Iterable[Run]) -> Config | None:
    """What the runs share; a plain residual's settings are the last choice, because they lack streams and manifold."""
    configs = [run.config for run in runs if run.config]
    return next((config for config in configs if config.recipe != RESIDUAL), configs[0] if configs else None)


def training(config: Config, precision: str, seeds: str) -> dict[str, str]:
    streams = config.streams or "each recipe's own number of"
    return {
        "Model": (
            f"byte-level GPT, {config.layers} blocks of width {config.dim} with {config.heads} heads, "
            f"{2 * config.layers} sites, {streams} streams, context {config.context} bytes"
        ),
        "Training": (
            f"{config.steps:,} steps of {config.batch * config.context:,} bytes, AdamW at {config.lr:g}, "
            f"{precision}, {seeds}"
        ),
    }


def surroundings(data: dict[str, Any], config: Config | None) -> dict[str, str]:
    """Text, machine and versions."""
    versions = f"streammix {streammix.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    return ({"Data": describe(data)} if data else {}) | {
        "Machine": machine(config),
        "Versions": versions,
        "Written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }


def command(comparison: Comparison, config: Config) -> str:
    """The command line that does all this again; settings at their default are left out."""
    recipes = ",".join(run.name for run in comparison.runs)
    words = ["streammix", "compare", *config.text, "--recipes", recipes, *options(config, {})]
    return shlex.join([*words, "--out", str(comparison.folder)])


def sweep_command(sweep: Sweep, config: Config) -> str:
    words = ["streammix", "sweep", *config.text, "--recipes", ",".join(sweep.recipes)]
    words += ["--seeds", ",".join(map(str, sweep.seeds)), "--precisions", ",".join(sweep.precisions)]
    words += options(config, PRESETS["sweep"], "seed", "bf16")
    return shlex.join([*words, "--out", str(sweep.folder)])


def options(config: Config, preset: Mapping[str, Any], *left_out: str) -> list[str]:
    """The options that differ from those of a preset."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in ("text", "recipe", *left_out) and value != preset.get(field.name, field.default):
            flag = option(field.name)
            words += [flag] if value is True else [flag, str(value)]
    return words


def describe(data: dict[str, Any]) -> str:
    said = str(data.get("source", "unknown"))
    if "train_bytes" in data and "val_bytes" in data:
        said += f": {data['train_bytes'] / 1e6:,.1f} MB to train on, {data['val_bytes'] / 1e6:,.1f} MB held out"
    if "held_out" in data:
        said += f" ({data['held_out']})"
    if "sha256" in data:
        said += f", sha256 {data['sha256'][:16]}"
    return said


def machine(config: Config | None) -> str:
    """Where this process runs, which is where the training ran."""
    if config and config.device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = config.threads if config and config.threads else torch.get_num_threads()
    return f"{processor()}, {os.cpu_count()} hardware threads, {threads} used; {platform.system()}"
