"""Tensor and sequence parallelism: two processes with half of the tokens each train as one process would."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import together
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import streammix as sm
from streammix.distributed import TokenParallel, reduce_gradients, token_plan

DIM = 16


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(DIM)
        self.up, self.down = nn.Linear(DIM, 2 * DIM), nn.Linear(2 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self, recipe: str) -> None:
        super().__init__()
        self.stack = sm.Stack([MLP(), MLP(), nn.RMSNorm(DIM)], DIM, recipe=recipe)
        self.norm, self.head = nn.RMSNorm(DIM), nn.Linear(DIM, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stack(x)))


INSIDE = {
    "norm": SequenceParallel(),
    "up": ColwiseParallel(input_layouts=Shard(1), use_local_output=False),
    "down": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
}
AROUND = {"norm": SequenceParallel(), "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())}


def equal_to_one_process(mesh: Any) -> None:
    for recipe in ("mhc", "deepseek-v4", "deepseek-v4.1"):
        torch.manual_seed(0)
        plain = Model(recipe)
        model = parallelize_module(copy.deepcopy(plain), mesh, token_plan(plain, {MLP: INSIDE}) | AROUND)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        assert model.stack[0].logits.weight.placements == (Replicate(),)
        assert model.stack[0].branch.up.weight.placements == (Shard(0),)
        x = torch.randn(2, 6, DIM)
        own = x.chunk(2, 1)[mesh.get_local_rank()]
        for _ in range(2):
            losses = []
            for module, given in ((plain, x), (model, own)):
                module.zero_grad()
                loss = module(given).square().mean()
                loss.backward()
                losses.append(loss)
            reduce_gradients(model)
            torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
            for (name, p), q in zip(model.named_parameters(), plain.named_parameters()):
                p, q = p.grad, q[1].grad
                assert (p is None) == (q is None)
                if p is not None:
                    assert not any(placement.is_partial() for placement in p.placements), name
                    torch.testing.assert_close(p.full_tensor(), q, rtol=1e-4, atol=1e-6, msg=f"{recipe} {name}")
            for module in (plain, model):
                torch.optim.SGD(module.parameters(), lr=0.1).step()


def local_output(mesh: Any) -> None:
    torch.manual_seed(0)
    stack = sm.Stack([nn.RMSNorm(DIM)], DIM)
    plan = token_plan(stack, token_dim=0)
    plan[""] = TokenParallel(0, use_local_output=True)
    x = torch.randn(4, DIM)
    expected = stack(x)
    own = parallelize_module(stack, mesh, plan)(x.chunk(2)[mesh.get_local_rank()])
    assert not isinstance(own, DTensor)
    torch.testing.assert_close(own, expected.chunk(2)[mesh.get_local_rank()])
    with pytest.raises(ValueError, match=r"x: got shape \(16,\); accepted: tokens in dimension 0, then C"):
        stack(torch.randn(DIM))


def summands(mesh: Any) -> None:
    """Gradients of other kinds are left alone."""
    model = nn.ParameterList(nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Replicate()])) for _ in range(2))
    model.append(nn.Parameter(torch.ones(4)))
    model.append(nn.Parameter(torch.ones(4)))
    model[0].grad = DTensor.from_local(torch.arange(4.0), mesh, [Partial()])
    model[1].grad = distribute_tensor(torch.ones(4), mesh, [Replicate()])
    model[2].grad = torch.ones(4)
    reduce_gradients(model)
    assert model[0].grad.placements == (Replicate(),)
    assert torch.equal(model[0].grad.to_local(), 2 * torch.arange(4.0))
    assert torch.equal(model[1].grad.to_local(), torch.ones(4))
    assert torch.equal(model[2].grad, torch.ones(4))


def all_checks(mesh: Any) -> None:
    for check in (equal_to_one_process, local_output, summands):
        check(mesh)


@pytest.mark.slow
def test_two_processes_share_the_tokens(tmp_path: Path) -> None:
    together(all_checks, tmp_path)


def with_fsdp(mesh: Any) -> None:
    """Rows over one dimension of the mesh, tokens over the other."""
    both = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(0)
    plain = Model("mhc")
    model = parallelize_module(copy.deepcopy(plain), both["tp"], token_plan(plain, {MLP: INSIDE}) | AROUND)
    sm.distributed.shard(model, both["dp"])
    x = torch.randn(4, 6, DIM)
    own = x.chunk(2)[both["dp"].get_local_rank()].chunk(2, 1)[both["tp"].get_local_rank()]
    for module, given in ((plain, x), (model, own)):
        module(given).square().mean().backward()
    reduce_gradients(model)
    for (name, p), q in zip(model.named_parameters(), plain.parameters()):
        assert (p.grad is None) == (q.grad is None)
        if q.grad is not None:
            torch.testing.assert_close(p.grad.full_tensor(), q.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_four_processes_share_rows_and_tokens(tmp_path: Path) -> None:
    together(with_fsdp, tmp_path, world=4)


def test_a_plan_names_stacks_lone_sites_and_what_is_in_branches() -> None:
    model = Model("mhc")
    model.last = sm.HyperConnection(MLP(), DIM, site=3)
    plan = token_plan(model, {MLP: INSIDE})
    sites = [f"stack.sites.{k}.branch" for k in range(2)] + ["last.branch"]
    inside = {f"{site}.{name}" for site in sites for name in INSIDE}
    assert plan.keys() == {"stack", "last", "stack.sites.2.branch", *inside}
    assert isinstance(plan["stack"], TokenParallel)


def test_a_plan_refuses_what_the_model_does_not_have() -> None:
    with pytest.raises(ValueError, match="model: this Linear has no connections"):
        token_plan(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="branches: got GELU, and no branch"):
        token_plan(Model("mhc"), {nn.GELU: {}})
    with pytest.raises(ValueError, match="branches: got 'gate' for MLP; accepted: down, norm, up"):
        token_plan(Model("mhc"), {MLP: {"gate": SequenceParallel()}})
    with pytest.raises(ValueError, match="token_dim: got -2; accepted: integers >= 0"):
        TokenParallel(-2)
