"""A progress line for `fit` on standard error: step, loss, metrics, time left."""

import weakref
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_SHARE = 0.25  # of the steps, where standard error is no terminal and a moving bar would fill a log


class ProgressBar(keras.callbacks.Callback):
    """Shows one bar over all steps of a `fit`; in a log file four plain lines instead.

    `done` counts the batches; `resumable_fit` sets it to those of an earlier, killed run.

    Args:
        title: what is trained.
        steps: batches in all epochs together.
    """

    def __init__(self, title: str, steps: int) -> None:
        super().__init__()
        self.title, self.steps, self.done = title, steps, 0
        self._console = Console(stderr=True)
        self._next_line = 0
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Show the bar."""
        self._next_line = self.done + self._line_every()
        if not self._console.is_terminal:
            self._tell(f"{self.title}: {self.steps - self.done} steps")
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[scores]}"),
            console=self._console,
        )
        self._task = self._progress.add_task(self.title, total=self.steps, completed=self.done, scores="")
        self._progress.start()
        # Keras calls no callback when `fit` ends in an error. The bar then stops with this object or with the program,
        # or the terminal would be left without its cursor.
        weakref.finalize(self, self._progress.stop)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Move the bar."""
        self.done += 1
        if self._progress is not None:
            self._progress.update(self._task, completed=self.done, scores=_written(logs or {}))
        elif self.done >= self._next_line:
            self._next_line += self._line_every()
            self._tell(f"{self.title}: step {self.done} of {self.steps}, {_written(logs or {})}")

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the bar as it stands."""
        if self._progress is not None:
            self._progress.stop()

    def _tell(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)

    def _line_every(self) -> int:
        return max(1, int(self.steps * LINE_EVERY_SHARE))


def _written(logs: dict[str, Any]) -> str:
    return ", ".join(f"{name} {float(value):.3f}" for name, value in logs.items())
