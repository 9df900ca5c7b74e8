"""Two processes train one model with DistributedDataParallel.

    python examples/ddp.py --steps 100

Every process takes its half of each batch. The example prints the loss, which falls, and the largest difference between
the parameters of the two processes afterwards, which is zero. It uses gloo on the CPU, so it needs no GPU.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import streammix as sm

DIM, DEPTH, BATCH = 32, 4, 64


def model(recipe: str) -> nn.Module:
    branches = [nn.Sequential(nn.RMSNorm(DIM), nn.Linear(DIM, DIM), nn.GELU()) for _ in range(DEPTH)]
    return nn.Sequential(sm.Stack(branches, DIM, recipe=recipe), nn.Linear(DIM, 1))


def worker(rank: int, processes: int, folder: str, steps: int, recipe: str, seed: int) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.set_num_threads(1)
    torch.manual_seed(seed)  # the same model and data in every process
    network = DistributedDataParallel(model(recipe))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        x = torch.randn(BATCH, DIM)
        target = x[:, :4].prod(-1, keepdim=True).tanh() + x[:, 4:5]
        x, target = x.chunk(processes)[rank], target.chunk(processes)[rank]  # this process's part
        loss = F.mse_loss(network(x), target)
        optimizer.zero_grad()
        loss.backward()  # gradients are averaged over the processes here
        optimizer.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / processes)

    own = nn.utils.parameters_to_vector(network.parameters()).detach()
    everyone = [torch.empty_like(own) for _ in range(processes)]
    dist.all_gather(everyone, own)
    if rank == 0:
        difference = max((other - own).abs().max().item() for other in everyone)
        result = {"first": losses[0], "last": sum(losses[-5:]) / len(losses[-5:]), "difference": difference}
        torch.save(result, Path(folder) / "result.pt")
    dist.destroy_process_group()


def main(steps: int = 100, recipe: str = "mhc", seed: int = 0, processes: int = 2) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(processes, folder, steps, recipe, seed), nprocs=processes)
        result: dict[str, float] = torch.load(Path(folder) / "result.pt")
    print(f"loss {result['first']:.3f} at the first step, {result['last']:.3f} over the last five of {steps}")
    print(f"largest difference of parameters between {processes} processes: {result['difference']}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
