"""The processes of a run: how they meet, agree, and part."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from streammix.lab.config import Config
from streammix.lab.errors import LabError
from streammix.lab.machine import pick_device
from streammix.lab.scale.settings import Scale, launched

T = TypeVar("T")
#: What a user can put right, which one process tells the others. Anything else ends its process, and thereby all.
Told = (LabError, OSError)


@dataclass(frozen=True)
class Team:
    """This process among those of a run.

    Attributes:
        rank, world: its number, and how many there are.
        device: where it computes.
        mesh: all of them, in one dimension.
        words: a group over gloo, for what is said beside the training.
        writers: another, for the threads that write checkpoints meanwhile.
    """

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh
    words: dist.ProcessGroup
    writers: dist.ProcessGroup

    @property
    def first(self) -> bool:
        """Whether it is the one that prints and writes the run's folder."""
        return self.rank == 0

    def ask_first(self, question: Callable[[], T]) -> T:
        """The first process's answer, in all of them; what it raises is raised in all."""
        return self.agree(question if self.first else None)[0]

    def agree(self, question: Callable[[], T] | None) -> list[T]:
        """Every process's answer; if one raises a mistake of the user's, all raise the first such."""
        answer: tuple[T | None, Exception | None] = None, None
        if question is not None:
            try:
                answer = question(), None
            except Told as mistake:
                answer = None, mistake
        answers: list[Any] = [None] * self.world
        dist.all_gather_object(answers, answer, group=self.words)
        for rank, (_, error) in enumerate(answers):
            if error is not None:
                raise error if rank == self.rank else copied(error)
        return [value for value, _ in answers]

    def sum(self, *shares: float | torch.Tensor) -> list[float]:
        """The sums over the processes of some numbers, in one all-reduce."""
        numbers = [torch.as_tensor(share).detach().to(self.device, torch.float64) for share in shares]
        total = torch.stack(numbers)
        dist.all_reduce(total)
        result: list[float] = total.tolist()
        return result


def copied(error: Exception) -> Exception:
    """An error as the first process had it, without what it knew there."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error), error.filename)
    return LabError(str(error))


@contextlib.contextmanager
def joined(config: Config, scale: Scale) -> Iterator[Team]:
    """Meet the other processes that torchrun started, or those of a group that is there already, or be alone.

    Every wait for another process ends after `scale.timeout` seconds: torch then raises, or ends the process.
    """
    device = own_device(pick_device(config))
    wait = timedelta(seconds=scale.timeout)
    mine = not dist.is_initialized()
    if mine:
        meet(device, wait)
    world = dist.get_world_size()
    mesh = init_device_mesh(device.type, (world,), mesh_dim_names=(scale.parallel,))
    words, writers = (gloo_group(wait) for _ in range(2))
    try:
        yield Team(dist.get_rank(), world, device, mesh, words, writers)
    except (*Told, KeyboardInterrupt):  # all raise it, so that all part
        part(mine)
        raise
    part(mine)


def meet(device: torch.device, wait: timedelta) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if not launched():
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=wait)
        return
    try:
        store, rank, world = next(dist.rendezvous("env://", timeout=wait))  # type: ignore[attr-defined]
        # torchrun keeps its store when it starts processes again, with the addresses of those that are dead.
        attempt = f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-of-{world}"
        own = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=wait)
    except (RuntimeError, ValueError, OSError) as error:  # no such host, a port in use, a process that never came
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        seconds = int(wait.total_seconds())
        raise LabError(f"the processes did not meet within {seconds} seconds (--timeout): {reason}") from None


def gloo_group(wait: timedelta) -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=wait)
    assert isinstance(group, dist.ProcessGroup)
    return group


def part(mine: bool) -> None:
    if mine and dist.is_initialized():
        dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """This process's own device where there are several."""
    if device.type != "cuda":
        return device
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise LabError(
            f"process {local + 1} of this machine has no CUDA device; accepted here: --nproc-per-node up to {there}, or"
            " --device cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
