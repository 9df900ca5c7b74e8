"""What a step does with its batch, and the validation loss with its windows."""

from typing import Any

import numpy as np
import pytest
import torch

from streammix.lab import text as texts
from streammix.lab.config import Config
from streammix.lab.model import GPT
from streammix.lab.training import optim
from streammix.lab.training.train import train_step, val_loss


def test_every_step_has_a_batch_of_its_own(tiny: dict[str, Any]) -> None:
    config = Config(**tiny)
    corpus = texts.load(config.text)
    seen = [texts.train_batch(corpus, config, step)[0].numpy().tobytes() for step in range(1, 40)]
    assert len(set(seen)) == len(seen)
    other = texts.train_batch(corpus, Config(**tiny | {"seed": 1}), 1)[0].numpy().tobytes()
    assert other != seen[0]


def test_gradients_are_clipped(tiny: dict[str, Any]) -> None:
    """With plain gradient descent of rate one the step is the gradient: no longer than the clip."""
    config = Config(**tiny | {"clip": 0.125})
    corpus = texts.load(config.text)
    model = GPT(config)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    _, norm = train_step(model, optimizer, corpus, config, 20, torch.device("cpu"))
    rate = optim.learning_rate(config, 20)
    moved = torch.stack([(p - q).norm() for p, q in zip(model.parameters(), before)]).norm().item() / rate
    assert norm > config.clip
    assert moved == pytest.approx(config.clip, rel=1e-3)


def test_passes_add_up_to_the_batch(tiny: dict[str, Any]) -> None:
    """A batch of 7 in passes of 3, 3 and 1: loss and gradient are the batch's; one pass gives the same bits as ever."""
    found = {}
    for windows in (None, 7, 3):
        config = Config(**tiny | {"batch": 7, "eval_batches": 3, "windows": windows, "clip": 1e9})
        corpus = texts.load(config.text)
        model = GPT(config)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        held_out = val_loss(model, corpus, config, torch.device("cpu"))
        loss, norm = train_step(model, optimizer, corpus, config, 5, torch.device("cpu"))
        found[windows] = (held_out, loss, norm, *(p.detach().clone() for p in model.parameters()))
    assert found[None][:3] == found[7][:3]
    for one, other in zip(found[None], found[3]):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-5, atol=1e-6)


def test_the_validation_loss_weighs_every_window_alike(tiny: dict[str, Any]) -> None:
    """The last batch is shorter: the mean of the batches' means is not the mean of all windows."""
    config = Config(**tiny | {"batch": 7, "eval_batches": 100})
    corpus = texts.load(config.text)
    model = GPT(config)
    sizes = [len(inputs) for inputs, _ in texts.val_batches(corpus, config)]
    assert sizes[-1] != sizes[0]
    with torch.no_grad():
        losses = [
            model.loss(inputs[i : i + 1], targets[i : i + 1]).item()
            for inputs, targets in texts.val_batches(corpus, config)
            for i in range(len(inputs))
        ]
    assert val_loss(model, corpus, config, torch.device("cpu")) == pytest.approx(float(np.mean(losses)), rel=1e-6)
