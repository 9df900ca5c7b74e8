"""Checks that several processes run together, over gloo."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def together(check: Callable[..., None], folder: Path, *args: Any, world: int = 2) -> None:
    """check(mesh, *args) in `world` processes; raises what one of them raises."""
    mp.spawn(_worker, (check, str(folder / "store"), world, args), nprocs=world)


def _worker(rank: int, check: Callable[..., None], store: str, world: int, args: tuple[Any, ...]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    wait = timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=wait)
    check(dist.init_device_mesh("cpu", (world,), mesh_dim_names=("dp",)), *args)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads sometimes abort a process that tears down its libraries
