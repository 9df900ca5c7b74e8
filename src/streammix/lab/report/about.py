"""What was run, on what, and where: the small print of a report."""

import dataclasses
import os
import platform
import shlex
from datetime import datetime
from typing import Any

import torch

import streammix
from streammix.lab.config import Config, option
from streammix.lab.machine import processor
from streammix.lab.report.comparison import Comparison


def about(comparison: Comparison) -> dict[str, str]:
    """The footer's lines."""
    config = next((run.config for run in comparison.runs if run.config), None)
    rows = {}
    if config:
        rows["Command"] = command(comparison, config)
        streams = config.streams or "each recipe's own number of"
        rows["Model"] = (
            f"byte-level GPT, {config.layers} blocks of width {config.dim} with {config.heads} heads, "
            f"{2 * config.layers} sites, {streams} streams, context {config.context} bytes"
        )
        precision = "bfloat16 autocast" if config.bf16 else "float32"
        rows["Training"] = (
            f"{config.steps:,} steps of {config.batch * config.context:,} bytes, AdamW at {config.lr:g}, "
            f"{precision}, seed {config.seed}"
        )
    if comparison.data:
        rows["Data"] = describe(comparison.data)
    rows["Machine"] = machine(config)
    rows["Versions"] = (
        f"streammix {streammix.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    rows["Written"] = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return rows


def command(comparison: Comparison, config: Config) -> str:
    """The command line that does all this again; settings at their default are left out."""
    words = [
        "streammix",
        "compare",
        *config.text,
        "--recipes",
        ",".join(run.name for run in comparison.runs),
    ]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in ("text", "recipe") and value != field.default:
            flag = option(field.name)
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join([*words, "--out", str(comparison.folder)])


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
