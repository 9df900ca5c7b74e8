"""Loading models that `add_streams` has given streams and `save_pretrained` has written."""

from os import PathLike
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedModel

from .adding import END, ENTRY, convert, described

#: Names of sites and ends in the layers; kept in float32 whatever dtype a model is loaded in.
OURS = ("hc_attn", "hc_mlp", "hc_block", END)


def from_pretrained(
    path: str | PathLike[str], model_class: type[PreTrainedModel] | None = None, **options: Any
) -> PreTrainedModel:
    """Load a model with streams: transformers' `from_pretrained`, for what `add_streams` made.

    Args:
        path: what `save_pretrained` wrote: a folder, or a repository's name.
        model_class: a class of transformers; None: the one that was saved.
        options: for the class's `from_pretrained`: dtype, device_map, attn_implementation and so on. Parameters of
            sites stay in float32 at least.

    Returns:
        The model, of its own class, in evaluation mode.

    Raises:
        ValueError: the checkpoint's config has no streams, or names no class that transformers has.
    """
    config = options.pop("config", None)
    if config is None:
        hub = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "force_download", "proxies")
        config = AutoConfig.from_pretrained(path, **{name: options[name] for name in hub if name in options})
    entry = getattr(config, ENTRY, None)
    if not isinstance(entry, dict):
        raise ValueError(
            f"path: the config of {str(path)!r} has no entry {ENTRY!r}; accepted: what streammix.hf.add_streams and"
            " save_pretrained made; load others with transformers, then call streammix.hf.add_streams(model)"
        )
    own = model_class or class_of(config)
    model = with_streams(own, entry).from_pretrained(path, config=config, **options)
    model.__class__ = own
    return model


def class_of(config: Any) -> type[PreTrainedModel]:
    """The class that was saved."""
    names = getattr(config, "architectures", None) or ["none"]
    found = getattr(transformers, names[0], None)
    if found is None:
        raise ValueError(
            f"model_class: the checkpoint's class is {names[0]!r}, which transformers does not have; give one"
        )
    return found


def with_streams(own: type[PreTrainedModel], entry: dict[str, Any]) -> type[PreTrainedModel]:
    """The class, whose new models have streams before anything is loaded into them."""
    recipe = described(entry["recipe"])

    def __init__(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        own.__init__(self, config, *args, **kwargs)
        convert(self, entry["streams"], recipe)

    kept = [*(own._keep_in_fp32_modules_strict or ()), *OURS]
    body = {"__init__": __init__, "__module__": own.__module__, "_keep_in_fp32_modules_strict": kept}
    return type(own.__name__, (own,), body)
