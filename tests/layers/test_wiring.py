"""A new wiring is one class: it enters itself, and recipes, Stack, tracing and resetting take it from there."""

import pytest
import torch
from torch import Tensor, nn

import streammix as sm
from streammix.layers import Connection
from streammix.layers.connections import CLASSES
from streammix.layers.connections.base import manifold_of
from streammix.layers.generators import Start, Static
from streammix.recipes import Wiring, wirings

DIM = 6


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-2) / 2


@pytest.fixture
def toy(monkeypatch):
    """Two streams, of which the branch reads the first and writes the second, after a learned mix."""
    monkeypatch.setattr(wirings, "_WIRINGS", dict(wirings._WIRINGS))
    before = dict(CLASSES)

    class Toy(Connection, wiring=Wiring("toy", logits=("static",), endings=("halved",), options=("scale",))):
        def build(self, manifold):
            self.manifold = manifold_of(manifold, self.recipe, self.streams)
            start = Start.at(self.manifold.identity_logits(), 0.0, 0.0)
            self.logits = Static((self.manifold.num_logits,), start=start)
            self.scale = self.recipe.connection_options["scale"]

        def begin(self, x):
            return sm.expand(x, self.streams)

        def coefficients(self, x):
            self.check(x)
            (mix,) = self.logits(x)
            one = torch.eye(self.streams, device=x.device)
            return one[0].expand(x.shape[:-1]), self.scale * one[1].expand(x.shape[:-1]), self.manifold(mix)

        def read(self, x, pre):
            return sm.read(x, pre)

        def write(self, x, y, post, res):
            return sm.write(x, y, post, res)

        @classmethod
        def ending(cls, recipe, dim, streams):
            return Halved()

    yield Toy
    CLASSES.clear()
    CLASSES.update(before)


def recipe(**changes) -> sm.recipes.Recipe:
    fields = {
        "name": "toy",
        "source": "this test",
        "note": "",
        "connection": "toy",
        "connection_options": {"scale": 3.0},
        "streams": 2,
        "manifold": "unconstrained",
        "logits": "static",
        "collapse": "halved",
    }
    return sm.recipes.Recipe(**(fields | changes))


def test_a_toy_wiring_works_in_a_stack(toy, seed):
    stack = sm.Stack([nn.Linear(DIM, DIM), nn.Tanh()], DIM, recipe=recipe())
    assert all(type(site) is toy for site in stack)
    x = torch.randn(3, DIM)
    first, second = x, x + 3 * stack[0].branch(x)
    second = second + 3 * first.tanh()
    torch.testing.assert_close(stack(x), (first + second) / 2)
    with sm.diagnostics.trace(stack) as trace:
        stack(x)
    assert [tuple(visit.res.shape) for visit in trace.visits] == [(3, 2, 2)] * 2
    with torch.no_grad():
        stack[0].logits.bias.fill_(9)
    stack.reset_parameters()
    torch.testing.assert_close(stack[0].logits.bias, torch.eye(2).flatten())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": "flattened"}, r"logits: got 'flattened'; toy connections accept static"),
        ({"collapse": "sum"}, r"collapse: got 'sum'; toy connections accept halved"),
        ({"connection_options": {}}, r"connection_options: got \{\} without 'scale', which toy connections need"),
        (
            {"connection_options": {"scale": 1, "size": 2}},
            r"got 'size'; toy connections accept scale",
        ),
    ],
)
def test_its_recipes_are_checked(toy, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_outside_of_this_file_no_one_knows_it():
    with pytest.raises(ValueError, match=r"connection: got 'toy'; accepted: hyper"):
        recipe()


@pytest.mark.parametrize("name", sm.recipes.names())
def test_layers_and_diagnostics_name_no_wiring(name):
    from pathlib import Path

    package = Path(sm.__file__).parent
    wiring = sm.recipes.get(name).connection
    for path in (package / "layers" / "stack.py", *(package / "diagnostics").glob("*.py")):
        code = "\n".join(line for line in path.read_text().splitlines() if '"""' not in line)
        assert f'== "{wiring}"' not in code
        assert f'case "{wiring}"' not in code
