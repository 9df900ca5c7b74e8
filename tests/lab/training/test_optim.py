"""The courses of the learning rate and of write multipliers, and what weight decay leaves alone."""

import dataclasses
import math
from itertools import pairwise

from streammix.lab.config import Config
from streammix.lab.model import GPT
from streammix.lab.training import optim


def test_learning_rate_rises_then_falls_to_a_tenth() -> None:
    config = Config(lr=1.0, warmup=10, steps=110)
    rates = [optim.learning_rate(config, step) for step in range(1, 111)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == 1.0
    assert math.isclose(rates[59], 0.55)  # half-way
    assert math.isclose(rates[-1], 0.1)
    assert all(a > b for a, b in pairwise(rates[9:]))


def test_learning_rate_without_warmup_and_with_nothing_else() -> None:
    assert math.isclose(optim.learning_rate(Config(lr=1.0, warmup=0, steps=1), 1), 0.1)
    assert optim.learning_rate(Config(lr=1.0, warmup=50, steps=10), 10) == 0.2


def test_decay_spares_vectors_and_static_connections() -> None:
    config = Config(recipe="mhc", dim=16, layers=1, heads=2, context=8)
    model = GPT(config)
    decaying, free = optim.adamw(model, config).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(decaying["params"]) + len(free["params"]) == len(names)
    spared = {names[id(parameter)] for parameter in free["params"]}
    assert spared == {
        "norm.weight",
        *(f"stack.sites.{i}.{name}" for i in (0, 1) for name in ("branch.norm.weight", "logits.bias", "logits.gate")),
    }


def test_write_multipliers_go_from_the_first_step_to_the_last() -> None:
    config = Config(recipe="motif-3", dim=16, layers=1, heads=2, context=8, steps=5)
    model = GPT(config)
    seen = []
    for step in range(1, 6):
        optim.anneal(model, config, step)
        seen.append([site.write_multiplier for site in model.stack])
    assert seen == [[2.0, 2.0], [1.75, 1.75], [1.5, 1.5], [1.25, 1.25], [1.0, 1.0]]
    optim.anneal(model, dataclasses.replace(config, steps=1), 1)  # a single step is a first one
    assert model.stack[0].write_multiplier == 2.0
    for recipe in ("residual", "mhc"):
        optim.anneal(GPT(dataclasses.replace(config, recipe=recipe)), config, 3)
