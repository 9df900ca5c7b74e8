"""What a trained model's read, write and mix maps do on held-out text, site by site."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from streammix import diagnostics, recipes
from streammix.lab import text
from streammix.lab.config import RESIDUAL, Config
from streammix.lab.machine import cpu_threads
from streammix.lab.model import GPT
from streammix.lab.training.checkpoint import load_model
from streammix.layers.connections import CLASSES


@dataclass
class SiteMaps:
    """One site, averaged over the tokens of the text; `spread` is the standard deviation over them."""

    label: str
    read: Float[Tensor, " n"]
    write: Float[Tensor, " n"]
    mix: Float[Tensor, "n n"]
    read_spread: Float[Tensor, " n"]
    write_spread: Float[Tensor, " n"]
    mix_spread: Float[Tensor, "n n"]
    measures: dict[str, float]
    """By name of the diagnostic; `marginal_error_max` is the worst token's, `min_entry` the least of all."""


@dataclass
class Maps:
    """All sites of one model, in the order of the forward pass."""

    streams: int
    tokens: int
    sites: list[SiteMaps]
    gains: diagnostics.GainsByDepth
    started: list[Float[Tensor, "n n"]] | None = None
    """H_res of every site where the recipe starts it, averaged over the tokens; None where that was not measured."""


def measure_checkpoint(path: Path) -> tuple[Config, Maps | None]:
    """Measure a run's newest checkpoint, or one checkpoint; models whose sites have no n x n H_res have no Maps.

    Raises:
        LabError: there is no readable checkpoint, or the text is no longer there.
    """
    model, config = load_model(path)
    if unmapped(config.recipe):
        return config, None
    corpus = text.load(config.text)
    text.require_length(corpus, config.context)
    # One batch, spread over all of the held-out text.
    tokens, _ = next(text.val_batches(corpus, dataclasses.replace(config, eval_batches=1)))
    maps = measure_model(model, tokens)
    maps.started = mixes(GPT(config).eval(), tokens)
    return config, maps


def unmapped(recipe: str) -> str:
    """Why models with this recipe have no maps to show; empty if they have."""
    if recipe == RESIDUAL:
        return f"a plain {RESIDUAL} model has no maps"
    return CLASSES[recipes.get(recipe).connection].unmapped


def measure_model(model: nn.Module, tokens: Int64[Tensor, "batch time"]) -> Maps:
    """Run a model once and measure every HyperConnection in it."""
    with torch.no_grad(), cpu_threads(1):
        with diagnostics.trace(model, states=True) as trace:
            model(tokens)
        sites = trace.sites()
        names = labels(model, sites)
        return Maps(
            streams=sites[0].res.shape[-1],
            tokens=tokens.numel(),
            sites=[measure_site(name, site) for name, site in zip(names, sites)],
            gains=diagnostics.gains_by_depth([site.res for site in sites]),
        )


def labels(model: nn.Module, sites: Sequence[diagnostics.Site]) -> list[str]:
    """Each site's place and the kind of its branch: "1 Attention"."""
    modules = dict(model.named_modules())
    return [f"{depth} {type(modules[site.name].branch).__name__}" for depth, site in enumerate(sites, start=1)]


def mixes(model: nn.Module, tokens: Int64[Tensor, "batch time"]) -> list[Float[Tensor, "n n"]]:
    """H_res of every site, averaged over the tokens."""
    with torch.no_grad(), cpu_threads(1), diagnostics.trace(model) as trace:
        model(tokens)
    return [site.res.mean(0) for site in trace.sites()]


def measure_site(label: str, site: diagnostics.Site) -> SiteMaps:
    assert site.state is not None  # the trace above keeps states
    marginal_error = diagnostics.marginal_error(site.res)
    per_token = {
        "marginal_error": marginal_error,
        "row_deviation": diagnostics.row_deviation(site.res),
        "column_deviation": diagnostics.column_deviation(site.res),
        "identity_drift": diagnostics.identity_drift(site.res),
        "cross_stream_weight": diagnostics.cross_stream_weight(site.res),
        "effective_read": diagnostics.effective_streams(site.pre),
        "effective_write": diagnostics.effective_streams(site.post),
        "dominant_signal": diagnostics.dominant_signal(site.state),
        "stream_cosine": diagnostics.stream_cosine(site.state),
        "stream_cosine_centred": diagnostics.stream_cosine(site.state, centred=True),
        "difference_share": diagnostics.difference_energy(site.state, relative=True),
    }
    measures = {name: values.double().mean().item() for name, values in per_token.items()}
    measures["marginal_error_max"] = marginal_error.max().item()
    measures["min_entry"] = diagnostics.min_entry(site.res).min().item()
    return SiteMaps(
        label=label,
        read=site.pre.mean(0),
        write=site.post.mean(0),
        mix=site.res.mean(0),
        read_spread=site.pre.std(0, correction=0),
        write_spread=site.post.std(0, correction=0),
        mix_spread=site.res.std(0, correction=0),
        measures=measures,
    )
