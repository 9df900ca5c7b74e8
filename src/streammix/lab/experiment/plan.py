"""What an experiment trains: cases, each of which is one arm in one group, by learning rates and seeds."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from streammix.lab.config import Config

#: Settings that change where a run happens and what it keeps, but not its result.
ELSEWHERE = ("text", "windows", "threads", "device", "checkpoint_every")

#: Settings that count for every run. Others came after results had been kept: they count where they are not their
#: default, so that those results are still found.
FIRST = frozenset(
    (
        *("recipe", "streams", "manifold", "start", "rounds", "dim", "layers", "heads", "mlp_width", "qk_norm"),
        *("context", "batch", "steps", "lr", "warmup", "weight_decay", "clip", "seed", "bf16"),
        *("eval_every", "eval_batches"),
    )
)

#: Validation loss by learning rate and seed; infinite where training diverged.
Losses = Mapping[tuple[float, int], float]


@dataclass(frozen=True)
class Run:
    """One training: a case at one learning rate with one seed."""

    group: str
    arm: str
    config: Config

    @property
    def key(self) -> str:
        """A hash of all that decides the result, but for the text: runs are the same where this is."""
        return key_of(self.config)

    @property
    def name(self) -> str:
        """A name for people and for folders; its key makes it one of a kind."""
        words = [self.group, self.arm, f"lr={self.config.lr:g}", f"seed={self.config.seed}", self.key]
        return "_".join(re.sub(r"[^\w.=+-]+", "-", word) for word in words if word)


@cache
def key_of(config: Config) -> str:
    settings = {}
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if field.name in FIRST or (field.name not in ELSEWHERE and value != field.default):
            is_real = field.type in (float, float | None) and value is not None
            settings[field.name] = float(value) if is_real else value
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Case:
    """An arm in a group; runs of one group differ in their arms, learning rates and seeds only.

    group: its size and its values on the axes that every arm has; "" where there is one group.
    arm: the arm's name in the file.
    axes: its values on the axes that are about streams, as words; "" where there are none.
    config: every setting but the learning rate and the seed.
    lrs: the learning rates of which the best is taken.
    """

    group: str
    arm: str
    axes: str
    config: Config
    lrs: tuple[float, ...]

    @property
    def label(self) -> str:
        """What tables call it within its group."""
        return f"{self.arm} {self.axes}".strip()

    def run(self, lr: float, seed: int) -> Run:
        return Run(self.group, self.label, dataclasses.replace(self.config, lr=lr, seed=seed))

    def best_lr(self, losses: Losses, seeds: tuple[int, ...]) -> float | None:
        """The learning rate of the lowest mean loss over these seeds; None until every one of these runs has ended.

        A rate at which a seed diverged is not taken; where all are such, the lowest.
        """
        if any((lr, seed) not in losses for lr in self.lrs for seed in seeds):
            return None
        return min(self.lrs, key=lambda lr: (sum(losses[lr, seed] for seed in seeds), lr))


@dataclass(frozen=True)
class Experiment:
    """A file of an experiment, read and checked.

    tuning: the seeds that choose learning rates; the others are run at the chosen rate only.
    compared_with: cases from which the others' differences are taken: labels, or names of arms, which stand for the
        case with the same values on the axes.
    source: the file's own content.
    """

    title: str
    about: str
    cases: tuple[Case, ...]
    seeds: tuple[int, ...]
    tuning: tuple[int, ...]
    compared_with: tuple[str, ...]
    text: tuple[str, ...]
    source: str

    def runs(self, losses: Mapping[str, float]) -> Iterator[Run]:
        """Every run that is known to be needed, seed by seed, so that what has ended can be compared early.

        Args:
            losses: the validation loss of each run that has ended, by its key; infinite where it diverged.
        """
        for seed in self.tuning:
            for case in self.cases:
                yield from (case.run(lr, seed) for lr in case.lrs)
        chosen = [(case, case.best_lr(self.losses(case, losses), self.tuning)) for case in self.cases]
        for seed in self.seeds:
            if seed not in self.tuning:
                yield from (case.run(lr, seed) for case, lr in chosen if lr is not None)

    def losses(self, case: Case, losses: Mapping[str, float]) -> dict[tuple[float, int], float]:
        """The case's part of all losses."""
        keys = {(lr, seed): case.run(lr, seed).key for lr in case.lrs for seed in self.seeds}
        return {place: losses[key] for place, key in keys.items() if key in losses}

    def reference(self, case: Case, name: str) -> Case | None:
        """The case of the same group that this name of `compared_with` means; None where there is none but itself."""
        group = [other for other in self.cases if other.group == case.group and other != case]
        named = [other for other in group if other.label == name]
        return next(iter(named or [other for other in group if (other.arm, other.axes) == (name, case.axes)]), None)

    def count(self) -> int:
        """How many runs there are in all."""
        rest = len(self.seeds) - len(self.tuning)
        return sum(len(self.tuning) * len(case.lrs) + rest for case in self.cases)


def describe(value: Any) -> str:
    """A setting's value as labels show it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
