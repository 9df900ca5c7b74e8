"""Accelerated models and models with streams in two processes, their layers sharded by FSDP2."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_models import PLAIN, deepseek_v4, hy_v4, scattered, tokens
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import streammix as sm

MODELS = {
    "deepseek_v4": lambda: sm.hf.accelerate(scattered(deepseek_v4())),
    "hy_v4": lambda: sm.hf.accelerate(scattered(hy_v4())),
    "llama": lambda: sm.hf.add_streams(PLAIN["llama"]()),
}


def compare(rank: int, port: int) -> None:
    """Outputs and gradients of each model before and after it is sharded."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for make in MODELS.values():
        torch.manual_seed(0)
        model, ids = make(), tokens()
        expected = model(ids).logits
        expected.square().mean().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        found = model(ids).logits
        found.square().mean().backward()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad.full_tensor(), gradients[name], rtol=0, atol=1e-7)
    dist.destroy_process_group()


@pytest.mark.slow
def test_fsdp2():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(compare, (port,), 2)


@pytest.mark.parametrize("name", MODELS)
def test_connections_of_models_are_float32_islands(name):
    model = MODELS[name]()
    found = sm.distributed.islands(model)
    kept = {id(p) for module in found.values() for p in module.parameters()}
    words = ("attn_hc", "ffn_hc", "hc_head", ".logits.", "_site")
    connections = {n: p for n, p in model.named_parameters() if any(word in n for word in words)}
    assert connections
    assert all(id(p) in kept for p in connections.values())
    assert not any(
        "proj" in n and "weights_proj" not in n for module in found.values() for n, _ in module.named_modules()
    )
