"""Connections of the PyPI package hyper-connections and ours with the same parameters, and how they are compared."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

OURS = "streammix.compat.hyper_connections"
REASON = "hyper-connections is not installed (requirements-dev.txt has it)"


def modules(name: str = "") -> tuple[Any, Any]:
    """A module of the package and ours of the same name; the test is skipped without the package."""
    tail = f".{name}" if name else ""
    theirs = pytest.importorskip(f"hyper_connections{tail}", reason=REASON)
    return theirs, importlib.import_module(f"{OURS}{tail}")


def pair(make: Callable[[Any], nn.Module], name: str = "") -> tuple[nn.Module, nn.Module]:
    """What `make` makes of the package and of ours; both with the package's parameters, drawn anew."""
    theirs, ours = (make(module) for module in modules(name))
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 and "static" not in key else 0.5
            parameter.add_(torch.randn_like(parameter) * spread)
    assert [k for k, _ in ours.named_parameters()] == [k for k, _ in theirs.named_parameters()]
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def assert_equal(theirs: nn.Module, ours: nn.Module, run: Callable[[nn.Module, Tensor], Any], *shape: int) -> None:
    """Outputs to 1e-5 of their size; gradients of the input and the parameters to 1e-5 of the largest of them, because
    a scale's is a sum of many terms that cancel."""
    x = torch.randn(shape)
    direction: list[Tensor] = []
    results = []
    for module in (theirs, ours):
        leaf = x.clone().requires_grad_()
        out, _ = torch.utils._pytree.tree_flatten(run(module, leaf))
        direction = direction or [torch.randn_like(o) for o in out]
        torch.autograd.backward(out, direction)
        results.append([*out, leaf.grad, *(p.grad for p in module.parameters())])
    names = [*("output" for _ in direction), "input", *(key for key, _ in theirs.named_parameters())]
    largest = max(g.abs().max().item() for g in results[0][len(direction) :] if g is not None and g.numel())
    for name, theirs_value, ours_value in zip(names, *results, strict=True):
        if theirs_value is None:
            assert ours_value is None, name
            continue
        scale = max(1.0, theirs_value.abs().max().item() if name == "output" else largest)
        torch.testing.assert_close(
            ours_value, theirs_value, rtol=0, atol=1e-5 * scale, msg=lambda m, name=name: f"{name}: {m}"
        )


def called(module: nn.Module, x: Tensor) -> Any:
    return module(x)
