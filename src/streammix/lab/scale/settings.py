"""How a run is spread over processes: what decides its speed and memory, but not its result."""

import math
import os
import socket
from dataclasses import dataclass

from streammix.lab.config import Config
from streammix.lab.errors import LabError

#: What a model can be spread by, as the command line has it.
PARALLEL = {
    "ddp": "each process has the whole model and its rows of every batch",
    "fsdp": "the same, but parameters, gradients and moments are sharded",
    "tp": "each process has its heads, its hidden units and its tokens of every stream",
    "pp": "each process has its blocks, and passes the streams on",
}
LONGEST = 24 * 3600  # seconds


@dataclass(frozen=True)
class Scale:
    """The settings of a run on several processes. A run may go on with other ones.

    Attributes:
        parallel: a name of PARALLEL.
        accumulate: into how many parts each process cuts its rows of a batch, one after the other; in a pipeline the
            number of micro-batches. None: as the config's windows ask for, and in a pipeline as many as stages, if that
            divides the batch.
        checkpoint_activations: whether branches run again in the backward pass instead of keeping their activations.
        recompute: Stack's: the streams are kept before every so manieth site only ("auto": before few).
        timeout: seconds after which a process that waits for another gives up.

    Raises:
        LabError: a value is out of range or unknown; says what came and what is accepted.
    """

    parallel: str = "ddp"
    accumulate: int | None = None
    checkpoint_activations: bool = False
    recompute: str | None = None
    timeout: int = 600

    def __post_init__(self) -> None:
        if self.parallel not in PARALLEL:
            raise LabError(f"--parallel is {self.parallel!r}; accepted: {', '.join(PARALLEL)}")
        for name, number, most in (("accumulate", self.accumulate, 10**6), ("timeout", self.timeout, LONGEST)):
            if number is not None and not 1 <= number <= most:
                raise LabError(f"--{name} is {number}; accepted: a number from 1 up to {most}")
        number = self.recompute is not None and self.recompute.isdecimal() and int(self.recompute) > 0
        if self.recompute not in (None, "auto") and not number:
            raise LabError(f"--recompute is {self.recompute!r}; accepted: auto, or a number from 1 up")

    def parts(self, config: Config, world: int) -> int:
        """How many micro-batches a process runs in a step."""
        if self.accumulate is not None:
            return self.accumulate
        if self.parallel == "pp":
            return math.gcd(config.batch, world)
        shares = world if self.parallel in ("ddp", "fsdp") else 1
        return math.ceil(config.batch / (shares * config.windows)) if config.windows else 1

    def check(self, config: Config, world: int, train_bytes: int) -> None:
        """Raise LabError unless `world` processes can share this run."""
        tokens = config.batch * config.context
        if train_bytes <= tokens:
            raise LabError(
                f"the text is too short: {train_bytes} bytes to train on, and a batch has {tokens} (--batch"
                f" {config.batch} times --context {config.context}); accepted: more bytes than a batch"
            )
        shares = world if self.parallel in ("ddp", "fsdp") else 1
        parts = self.parts(config, world)
        if config.batch % (shares * parts):
            said = f", and {shares} processes share it" if shares > 1 else ""
            cut = f", each in {parts} parts (--accumulate)" if parts > 1 else ""
            raise LabError(f"--batch is {config.batch}{said}{cut}; accepted: multiples of {shares * parts}")
        if self.parallel == "tp":
            for name, number in (("heads", config.heads), ("context", config.context)):
                if number % world:
                    raise LabError(
                        f"--{name} is {number}, and {world} processes share it; accepted: multiples of {world}"
                    )
        if self.parallel == "pp" and world > config.layers:
            raise LabError(f"--layers is {config.layers}, and {world} stages share them; accepted: {world} or more")


def launched() -> bool:
    """Whether torchrun, or something like it, started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank_of_launch() -> int:
    """This process's number among those that torchrun started; 0 where it started none."""
    rank = os.environ.get("RANK", "")
    return int(rank) if launched() and rank.isdecimal() else 0


def launch_id() -> str:
    """What torchrun's processes have in common, also after a restart, with no others."""
    given = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return given if given != "none" else f"{socket.gethostname()}-{os.getppid()}"


def restarted() -> bool:
    """Whether torchrun started the processes again, after one of them had died."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return launched() and count.isdecimal() and int(count) > 0
