"""Seconds of work on a device, timed by events, in a CUDA graph so that what the host does is left out."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

WARM_CALLS = 3
HOST_TOO = ", with the host's time"
SAMPLE_SECONDS = 5e-3  # a sample repeats a call until it lasts about so long
L2_BYTES = 256 * 2**20  # written before each sample, so that none begins with its neighbour's cache


class Clock:
    """device: "cuda", or "cpu", which is timed by the host: for trying out the suite where there is no GPU."""

    def __init__(self, device: str, turns: int) -> None:
        self.device, self.turns = device, turns
        self.flushed = torch.empty(L2_BYTES if device == "cuda" else 0, dtype=torch.int8, device=device)

    def seconds(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """The median of each call's samples; contenders take turns. What cannot be captured, because it waits for the
        device, is timed with what the host does, and its name ends in HOST_TOO."""
        ready = {name: self._captured(call) for name, call in calls.items()}
        samples: dict[str, list[float]] = {name: [] for name in ready}
        repeats = {name: max(1, round(SAMPLE_SECONDS / self._sample(run, 1))) for name, run in ready.items()}
        for _ in range(self.turns):
            for name, run in ready.items():
                samples[name].append(self._sample(run, repeats[name]))
        named = {name: name + HOST_TOO * (self.device == "cuda" and ready[name] is calls[name]) for name in calls}
        return {named[name]: statistics.median(times) for name, times in samples.items()}

    def _captured(self, call: Callable[[], object]) -> Callable[[], object]:
        for _ in range(WARM_CALLS):
            call()  # compiles
        if self.device == "cpu":
            return call
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:  # it waits for the device
            torch.cuda.synchronize()
            return call
        return graph.replay

    def _sample(self, run: Callable[[], object], repeats: int) -> float:
        if self.device == "cpu":
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return (time.perf_counter() - start) / repeats
        self.flushed.zero_()
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        for _ in range(repeats):
            run()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3 / repeats
