"""The package's weights in streammix's own sites: what its modules compute, with streams on an axis of their own."""

import pytest
import torch
from package_pairs import modules
from torch import nn

import streammix as sm

S, D = 4, 16
SOURCES = [
    ("hyper-connections", "hyper_connections", "HyperConnections", {}),
    ("hyper-connections", "hyper_connections", "HyperConnections", {"tanh": False}),
    ("hyper-connections-mhc", "manifold_constrained_hyper_connections", "mHC", {}),
    ("hyper-connections-mhc", "manifold_constrained_hyper_connections", "mHC", {"sinkhorn_iters": 4}),
    ("hyper-connections-mhc-v2", "mHCv2", "mHC", {}),
]


@pytest.mark.parametrize(("source", "module", "cls", "settings"), SOURCES)
def test_a_site_with_the_packages_weights(source, module, cls, settings, seed):
    theirs, _ = modules(module)
    branch = nn.Linear(D, D)
    layer = getattr(theirs, cls)(S, dim=D, branch=branch, **settings)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    site = sm.HyperConnection(branch, D, S, sm.checkpoints.recipe(source, **settings), site=0)
    sm.checkpoints.load(site, layer.state_dict(), source)
    x = torch.randn(2, 5, S, D)
    if module == "mHCv2":
        expected = layer(x)
    else:
        expected = layer(x.movedim(-2, 1).flatten(0, 1)).unflatten(0, (2, S)).movedim(1, -2)
    torch.testing.assert_close(site(x), expected, rtol=0, atol=1e-5)
    exported = sm.checkpoints.export(site, source)
    layer.load_state_dict({**layer.state_dict(), **exported})
    again = layer(x) if module == "mHCv2" else layer(x.movedim(-2, 1).flatten(0, 1)).unflatten(0, (2, S)).movedim(1, -2)
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def test_a_model_moved_over_to_a_stack(seed):
    theirs, _ = modules()
    branches = [nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D)) for _ in range(4)]
    init, expand, reduce = theirs.mc_get_init_and_expand_reduce_stream_functions(S, dim=D)
    layers = nn.ModuleList(init(branch=branch, layer_index=k) for k, branch in enumerate(branches))
    stack = sm.Stack(branches, D, S, sm.checkpoints.recipe("hyper-connections-mhc"))
    state = {f"layers.{name}": value for name, value in layers.state_dict().items()}
    sm.checkpoints.load(stack, state, "hyper-connections-mhc", prefix="layers.{site}.")
    x = torch.randn(2, 5, D)
    y = expand(x)
    for layer in layers:
        y = layer(y)
    torch.testing.assert_close(stack(x), reduce(y), rtol=0, atol=1e-4)
