"""How large a config's model is, known without making it."""

from functools import lru_cache

import torch

from streammix.lab.config import Config
from streammix.lab.model import GPT


@lru_cache(maxsize=256)
def count_parameters(config: Config) -> int:
    """The number of parameters of the config's model.

    Raises:
        LabError: the recipe cannot take a setting of the config.
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(config).parameters())
