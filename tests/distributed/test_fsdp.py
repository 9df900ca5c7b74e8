"""Sharded models: connections stay in float32 under a bfloat16 policy, and train as one process would."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import together
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

import streammix as sm

DIM, VOCABULARY = 16, 32


class Branch(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.RMSNorm(DIM), nn.Linear(DIM, DIM), nn.GELU())


class Block(nn.Module):
    """A user's own block, which opens its sites by `connect`, as models of transformers do."""

    def __init__(self, index: int, recipe: str) -> None:
        super().__init__()
        kind = sm.layers.connections.CLASSES[sm.recipes.get(recipe).connection]
        self.site = kind(None, DIM, sm.recipes.get(recipe).streams, recipe, site=index)
        self.body = Branch()

    def forward(self, x: Any) -> Any:
        u, finish = self.site.connect(*x) if isinstance(x, tuple) else self.site.connect(x)
        return finish(self.body(u))


class Model(nn.Module):
    """Embedding, sites and head; as a Stack, or as blocks of the user's own."""

    def __init__(self, recipe: str = "mhc", *, blocks: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, DIM)
        if blocks:
            self.blocks = nn.ModuleList(Block(index, recipe) for index in range(3))
            first = self.blocks[0].site
            self.collapse = type(first).ending(first.recipe, DIM, first.streams)
        else:
            self.stack = sm.Stack([Branch() for _ in range(3)], DIM, recipe=recipe, **options)
        self.head = nn.Linear(DIM, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if hasattr(self, "stack"):
            return self.head(self.stack(x))
        state = self.blocks[0].site.begin(x)
        for block in self.blocks:
            state = block(state)
        return self.head(self.collapse(state))


def is_connection(name: str) -> bool:
    return name.startswith(("stack.", "blocks.", "collapse.")) and ".branch." not in name and ".body." not in name


def trained(model: nn.Module, rows: slice, steps: int = 3) -> list[float]:
    """The losses of some steps on these rows of the batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    draw = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(VOCABULARY, (4, 8), generator=draw)
        loss = F.cross_entropy(model(tokens[rows]).float().flatten(0, 1), tokens[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def equal_to_one_process(mesh: Any) -> None:
    rank = dist.get_rank()
    own = slice(2 * rank, 2 * rank + 2)
    cases = [("mhc", False, {}), ("mhc", False, {"recompute": 2}), ("mhc", True, {}), ("deepseek-v4.1", False, {})]
    cases += [("deepseek-v4", True, {}), ("xhc", False, {}), ("ghc", False, {}), ("tbp", True, {})]
    for recipe, blocks, options in cases:
        torch.manual_seed(0)
        plain = Model(recipe, blocks=blocks, **options)
        model = copy.deepcopy(plain)
        units = [Block] if blocks else []
        assert sm.distributed.shard(model, mesh, units=units) is model
        expected, losses = trained(plain, slice(0, 4)), torch.tensor(trained(model, own))
        dist.all_reduce(losses)
        torch.testing.assert_close(losses / 2, torch.tensor(expected), rtol=1e-5, atol=1e-5, msg=f"{recipe} {blocks}")
        for (name, p), q in zip(model.named_parameters(), plain.parameters()):
            torch.testing.assert_close(p.full_tensor(), q, rtol=1e-4, atol=1e-5, msg=f"{recipe} {name}")


def look(model: Model, branches: set[Any], connections: set[Any], module: nn.Linear, inputs: Any) -> None:
    """Note dtypes while parameters are gathered."""
    branches.add(module.weight.dtype)
    connections.update(p.dtype for name, p in model.named_parameters() if is_connection(name))


def islands_in_float32(mesh: Any) -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for recipe, blocks in (("mhc", False), ("mhc", True), ("deepseek-v4", False), ("gated-residual", True)):
        torch.manual_seed(0)
        model = Model(recipe, blocks=blocks)
        branches: set[torch.dtype] = set()
        connections: set[torch.dtype] = set()

        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(functools.partial(look, model, branches, connections))
        sm.distributed.shard(model, mesh, mp_policy=policy, units=[Block] if blocks else [])
        loss = model(torch.arange(8).view(1, 8)).float().logsumexp(-1).mean()
        assert (branches, connections) == ({torch.bfloat16}, {torch.float32}), recipe
        loss.backward()
        for name, p in model.named_parameters():
            assert p.dtype == torch.float32
            assert p.grad is None or (p.grad.dtype == torch.float32 and p.grad.full_tensor().isfinite().all()), name


def stays_fused(mesh: Any) -> None:
    stack = sm.Stack([Branch() for _ in range(3)], DIM)
    sm.distributed.shard(stack, mesh)
    assert all(site.fuses for site in stack)
    x = torch.randn(2, 5, DIM)
    assert stack.states(x).shape == (2, 5, 4, DIM)
    stack.states(x).sum().backward()
    assert all(p.grad is not None for p in stack.parameters())


def refusals(mesh: Any) -> None:
    model = Model()
    with pytest.raises(ValueError, match=r"units: got 'layers', which is no module of this Model"):
        sm.distributed.shard(model, mesh, units=["layers"])
    with pytest.raises(TypeError, match=r"float32: got 'head'; accepted: a collection"):
        sm.distributed.shard(model, mesh, float32="head")
    with pytest.raises(TypeError, match=r"mesh: got int"):
        sm.distributed.shard(model, 2)  # type: ignore[arg-type]
    model.stack[0].logits.weight = nn.Parameter(model.stack[0].logits.weight.bfloat16())
    with pytest.raises(
        ValueError, match=r"model: stack\.sites\.0\.logits\.weight is torch\.bfloat16; accepted: float32"
    ):
        sm.distributed.shard(model, mesh)
    assert not any(hasattr(p, "device_mesh") for p in model.parameters())
    model = sm.distributed.shard(Model(), mesh)
    with pytest.raises(ValueError, match=r"Model is sharded already|model: stack\.sites\.0\.branch is sharded already"):
        sm.distributed.shard(model, mesh)


def all_checks(mesh: Any) -> None:
    for check in (equal_to_one_process, islands_in_float32, stays_fused, refusals):
        check(mesh)


@pytest.mark.slow
def test_two_processes_shard_models_with_float32_islands(tmp_path: Path) -> None:
    together(all_checks, tmp_path)


def test_islands_are_stacks_sites_outside_of_them_and_what_is_named() -> None:
    assert list(sm.distributed.islands(Model())) == ["stack"]
    assert list(sm.distributed.islands(Model("deepseek-v4", blocks=True))) == [
        *(f"blocks.{k}.site" for k in range(3)),
        "collapse.head",
    ]
    assert list(sm.distributed.islands(Model(), float32=["head"])) == ["stack", "head"]
    inner = sm.Stack([Branch()], DIM)
    outer = sm.Stack([inner, Branch()], DIM)
    assert list(sm.distributed.islands(outer)) == ["sites.0.branch", ""]
    assert sm.distributed.islands(nn.Linear(4, 4)) == {}


def test_modules_that_a_model_of_transformers_keeps_in_float32_are_islands() -> None:
    model = Model()
    model._keep_in_fp32_modules_strict = ["head"]
    assert list(sm.distributed.islands(model)) == ["stack", "head"]
    model._keep_in_fp32_modules_strict = ["head.weight", "embed"]
    assert list(sm.distributed.islands(model)) == ["embed", "stack"]  # the head has a bias besides
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    plain._keep_in_fp32_modules_strict = ["weight", "bias"]
    assert list(sm.distributed.islands(plain)) == [""]
