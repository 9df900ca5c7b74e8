"""What a person sees while a model trains: a live line in a terminal, a plain one now and then elsewhere."""

import contextlib
import sys
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Display:
    """Shows step, losses, tokens/s and time left of one run."""

    def __init__(self, title: str, first: int, steps: int, console: Console | None = None) -> None:
        self.title, self.first, self.steps, self.step = title, first, steps, first
        self.console = console or Console(file=sys.stdout)
        self.silent = False
        self.loss, self.val_loss, self.rate = float("nan"), float("nan"), 0.0
        self.live = Progress(
            TextColumn("[bold]{task.description:<14}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.live.add_task(title, total=steps, completed=first, numbers="")

    def train(self, step: int, loss: float, tokens_per_s: float) -> None:
        self.step, self.loss = step, loss
        self.rate = tokens_per_s if self.rate == 0 else 0.9 * self.rate + 0.1 * tokens_per_s
        with self.while_seen():
            self.live.update(self.task, completed=step, numbers=self.numbers())

    def val(self, step: int, loss: float, seconds_left: float) -> None:
        self.step, self.val_loss = step, loss
        with self.while_seen():
            self.live.update(self.task, completed=step, numbers=self.numbers())
        if not self.console.is_terminal:
            left = f"{int(seconds_left) // 60}:{int(seconds_left) % 60:02d} left"
            self.say(f"{self.title:<14} step {step:>{len(str(self.steps))}}/{self.steps}  {self.numbers()}  {left}")

    def numbers(self) -> str:
        shown = [("loss", self.loss), ("val", self.val_loss)]
        losses = "  ".join(f"{name} {value:.3f}" if value == value else f"{name}   -  " for name, value in shown)
        return f"{losses}  {self.rate:7,.0f} tokens/s"

    def say(self, line: str) -> None:
        with self.while_seen():
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def while_seen(self) -> Iterator[None]:
        """Stops showing anything once it cannot be shown: what trains goes on."""
        try:
            yield
        except (OSError, SystemExit) as error:  # rich would leave by SystemExit where a pipe has lost its reader
            if not self.silent:
                self.console.quiet = self.silent = True
                reason = error.strerror if isinstance(error, OSError) else "its reader is gone"
                with contextlib.suppress(OSError):
                    print(f"warning: progress cannot be shown any more ({reason}); training goes on", file=sys.stderr)

    def __enter__(self) -> "Display":
        with self.while_seen():
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.while_seen():
            self.live.stop()
