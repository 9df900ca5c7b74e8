"""What a run says of itself: the first process writes and shows it, the others do nothing."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from streammix.lab.config import Config
from streammix.lab.scale.team import Team
from streammix.lab.training import optim
from streammix.lab.training.metrics import Metrics
from streammix.lab.training.progress import Display
from streammix.lab.training.train import was_measured


class Log:
    """The measurements and the display of a run that goes on after `step`."""

    def __init__(self, run: Path, config: Config, step: int, team: Team, console: Console | None) -> None:
        self.run, self.config, self.team, self.step, self.console = run, config, team, step, console
        self.open = contextlib.ExitStack()
        self.metrics: Metrics | None = None
        self.display: Display | None = None
        self.trouble: OSError | None = None

    def __enter__(self) -> "Log":
        def begin() -> None:
            self.metrics = self.open.enter_context(Metrics(self.run, self.step))
            self.display = self.open.enter_context(
                Display(self.config.recipe, self.step, self.config.steps, self.console)
            )

        self.team.ask_first(begin)
        return self

    def __exit__(self, *error: Any) -> None:
        self.open.__exit__(*error)

    def warn(self, troubles: list[str]) -> None:
        if self.display is not None and self.metrics is not None:
            for trouble in troubles:
                self.display.say(f"warning: {trouble}; going on from step {self.step}")
            if self.metrics.damaged:
                self.display.say(f"warning: {self.metrics.path}: {self.metrics.damaged} damaged lines are left out")

    def has_val(self, step: int) -> bool:
        """Whether the validation loss after this step is on record; the same in all processes."""
        return self.team.ask_first(lambda: was_measured(self.run, step))

    @property
    def failed(self) -> bool:
        """Whether the first process could not write, and all are to stop; `check` says why."""
        return self.trouble is not None

    def check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    @contextlib.contextmanager
    def keeping_trouble(self) -> Iterator[None]:
        """Holds what the first process alone would fall over, until all can stop for it."""
        try:
            yield
        except OSError as error:
            self.trouble = self.trouble or error

    def val(self, step: int, loss: float, seconds: float) -> None:
        if self.metrics is not None and self.display is not None:
            with self.keeping_trouble():
                self.metrics.write(step, "val", loss=loss)
            pace = seconds / step if step else 0.0
            self.display.val(step, loss, pace * (self.config.steps - step))

    def train(self, step: int, loss: float, norm: float, took: float, seconds: float) -> None:
        if self.metrics is not None and self.display is not None:
            tokens = self.config.batch * self.config.context
            rate = tokens / took
            values = {"loss": loss, "grad_norm": norm, "lr": optim.learning_rate(self.config, step)}
            values |= {"tokens": step * tokens, "seconds": seconds, "tokens_per_s": rate}
            with self.keeping_trouble():
                self.metrics.write(step, "train", **values)
            self.display.train(step, loss, rate)

    def sync(self) -> None:
        if self.metrics is not None:
            with self.keeping_trouble():
                self.metrics.sync()
