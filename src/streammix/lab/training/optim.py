"""AdamW, what it decays, and the courses of the learning rate and of write multipliers."""

import math

import torch
from torch import nn

import streammix as sm
from streammix.lab.config import Config
from streammix.lab.model import GPT
from streammix.layers.annealing import WriteMultiplier


def adamw(model: GPT, config: Config) -> torch.optim.AdamW:
    """AdamW that decays matrices and spares vectors.

    Vectors are gains, biases, gates and the static coefficients of connections, which decay would pull away from
    where their recipe starts (arXiv 2409.19606 spares them too).
    """
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    free = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)


def learning_rate(config: Config, step: int) -> float:
    """Of step 1, 2, ..., steps: a straight line up to lr at `warmup`, then half a cosine down to lr / 10."""
    if step < config.warmup:
        return config.lr * step / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.55 + 0.45 * math.cos(math.pi * progress))


def anneal(model: nn.Module, config: Config, step: int) -> None:
    """Set the write multipliers of step 1, 2, ..., steps, a straight line from start to end; most recipes have none."""
    if any(isinstance(module, WriteMultiplier) for module in model.modules()):
        sm.anneal_write_multiplier(model, (step - 1) / max(1, config.steps - 1))
