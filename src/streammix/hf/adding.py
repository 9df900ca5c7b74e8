"""Streams for trained models of transformers and timm that have one residual state."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast

import torch
from torch import nn

from .. import recipes
from .._checks import check_integer, closest
from ..layers import Stack
from ..layers.connections import CLASSES, make
from ..recipes import AuthorsStart, Recipe, Switch
from .blocks import BLOCKS, Streamed, mixin_of, stacks, width
from .swapping import check_forward, swap, swap_back

Model = TypeVar("Model", bound=nn.Module)

#: The entry of a model's config that says that it has streams.
ENTRY = "streammix"
#: The end of the streams, in the last layer.
END = "hc_end"
#: Wirings whose state is one tensor, and the same for a text in one piece and token by token.
WIRINGS = ("hyper", "equilibrium", "frac", "generalised")
#: How far the end of new streams may be from the plain residual network, of states of size one.
START_TOLERANCE = 1e-4


def add_streams(model: Model, streams: int = 4, recipe: str | Recipe = "mhc") -> Model:
    """Give a trained model n residual streams; in place, with unchanged outputs until it is trained further.

    Every residual addition becomes a site of hyper-connections around the layer's own attention and MLP. The first
    layer makes streams of the embedding, the last ends them in one state before the model's final norm. Keys of the
    model's state dict stay; those of the sites are added: `hc_attn` and `hc_mlp` in every layer, or `hc_block` where a
    layer's branches run side by side. The model's config has an entry for it, from which
    `streammix.hf.from_pretrained` loads what `save_pretrained` wrote. With `output_hidden_states`, states between
    layers are (batch, tokens, n, C).

    `restore` takes the streams away again.

    Args:
        model: a model of transformers of these types: gemma, gemma2, gemma3, gpt2, gpt_neox, llama, mistral, olmo,
            olmo2, olmo3, phi, qwen2, qwen3, vit; with any head. Or one of timm's vision transformers, by itself, which
            has no config, or in transformers' TimmWrapper.
        streams: n >= 1.
        recipe: a name of `streammix.recipes.names()` or a Recipe that starts as the plain residual network, with
            connection "hyper", "equilibrium", "frac" or "generalised". An ending in the sum is replaced by the mean.

    Returns:
        The model itself.

    Raises:
        ValueError: another model, one that has streams already, shares layers or is quantised, or another recipe; the
            model is then left as it was.
    """
    check_integer("streams", streams, 1)
    recipe = recipes.get(recipe) if isinstance(recipe, str) else recipe
    if recipe.collapse == "sum":  # n times the plain state
        recipe = replace(recipe, collapse="mean")
    check_model(model)
    check_start(recipe, streams)
    convert(model, streams, recipe)
    config = getattr(model, "config", None)
    if config is not None:
        config.update({ENTRY: {"streams": streams, "recipe": description(recipe)}})
    return model


def remove_streams(model: nn.Module) -> None:
    """Give every layer its own class again, without sites."""
    for module in [m for m in model.modules() if isinstance(m, Streamed)]:
        streamed = cast("Any", module)
        for name in (*streamed.branches(), END):
            streamed._modules.pop(name, None)
        del streamed.begins_streams
        swap_back(module)
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, ENTRY):
        delattr(config, ENTRY)


def check_model(model: Any) -> None:
    """Raise ValueError unless the model has layers that are known here, each once and none with streams."""
    if any(isinstance(module, Streamed) for module in model.modules()):
        raise ValueError("model: it has streams already; streammix.hf.restore(model) takes them away first")
    found = list(stacks(model))
    if not found:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise ValueError(
            f"model: got one of type {kind!r}, whose layers are not known here; accepted: {', '.join(sorted(BLOCKS))}"
            f" and timm's vision transformers{closest(kind, BLOCKS)}; streammix.Stack and HyperConnection.connect serve"
            " models of your own"
        )
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError(
            "model: its weights are quantised; accepted: plain weights; add streams to the model as it was before that,"
            " save it, and quantise what streammix.hf.from_pretrained loads"
        )
    if any(p.is_meta for _, layers in found for p in layers.parameters()):
        raise ValueError(
            "model: some of its layers are offloaded, or on the meta device; accepted: layers in memory; add streams to"
            " those, save the model, and load it by streammix.hf.from_pretrained with a device_map"
        )
    for owner, layers in found:
        for layer in layers:
            check_forward(layer)
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError(
                f"model: {type(owner).__name__} runs one layer several times; accepted: layers of their own"
            )
        if any(hasattr(layer, "crossattention") for layer in layers):
            raise ValueError(f"model: {type(owner).__name__} has cross-attention; accepted: layers without it")


def check_start(recipe: Recipe, streams: int) -> None:
    """Raise ValueError unless a new network of this recipe computes what the plain residual network computes."""
    if recipe.connection not in WIRINGS:
        raise ValueError(
            f"recipe: got {recipe.name!r}, whose connection is {recipe.connection!r}; accepted: {', '.join(WIRINGS)}"
        )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        dim = 8 * streams
        branches = [nn.Linear(dim, dim, dtype=torch.float32) for _ in range(3)]
        x = plain = torch.randn(5, dim, dtype=torch.float32)
        for branch in branches:
            plain = plain + branch(plain)
        off = (Stack(branches, dim, streams, recipe)(x) - plain).abs().max().item()
    if not off < START_TOLERANCE:
        raise ValueError(
            f"recipe: got {recipe.name!r}, which does not start as the plain residual network, so that a trained"
            " model's outputs would change; accepted: recipes that do, such as mhc, mhc-sinkhorn, ihc and hc"
        )


def convert(model: nn.Module, streams: int, recipe: Recipe) -> None:
    """Put sites into every layer, each at its start."""
    for owner, layers in list(stacks(model)):
        dim, site = width(owner), 0
        for layer in layers:
            mixin = mixin_of(layer)
            assert mixin is not None
            swap(layer, mixin)
        sites = sum(len(cast("Any", layer).branches()) for layer in layers)
        for index, layer in enumerate(layers):
            like = next(layer.parameters())
            streamed = cast("Any", layer)
            for name in streamed.branches():
                layer.add_module(name, placed(make(recipe, None, dim, streams, site, sites=sites), like))
                site += 1
            streamed.begins_streams = index == 0
        layer.add_module(END, placed(CLASSES[recipe.connection].ending(recipe, dim, streams), like))


def placed(module: nn.Module, like: torch.Tensor) -> nn.Module:
    """The module on the parameter's device, in its dtype but float32 at least."""
    return module.to(like.device, torch.promote_types(like.dtype, torch.float32))


def description(recipe: Recipe) -> str | dict[str, Any]:
    """A recipe as JSON has it: its name, or its fields where they are not those of that name."""
    if recipe.name in recipes.names() and recipe == recipes.get(recipe.name):
        return recipe.name
    fields = asdict(recipe)
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()}


def described(entry: str | Mapping[str, Any]) -> Recipe:
    """The recipe of a description."""
    if isinstance(entry, str):
        return recipes.get(entry)
    fields = dict(entry)
    if fields.get("authors") is not None:
        fields["authors"] = AuthorsStart(**fields["authors"])
    options = fields.get("manifold_options", {})
    fields["manifold_options"] = {
        name: Switch(**value) if isinstance(value, Mapping) else value for name, value in options.items()
    }
    return Recipe(**fields)
