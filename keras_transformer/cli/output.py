"""What a command writes where: its result on standard output, all else on standard error."""

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from keras_transformer.checks import UserError

if TYPE_CHECKING:
    from rich.console import Console

STDIN, STDOUT, STDERR = 0, 1, 2


class OutputError(UserError):
    """Standard output takes no more: what it leads to is full or closed."""


class StandardOutput(io.TextIOWrapper):
    """Standard output that says so itself when it can't be written; a pipe that was closed stays a BrokenPipeError."""

    def write(self, text: str) -> int:
        """Write `text`, perhaps to the buffer alone."""
        with _as_output_error():
            return super().write(text)

    def flush(self) -> None:
        """Write what the buffer holds."""
        with _as_output_error():
            super().flush()


@contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"standard output can't be written ({error.strerror}), so answers are missing. "
            "Free some room where it leads, or send it to another place."
        ) from error


def prepare_streams() -> None:
    """Let standard output say when it fails, and let it and standard error lead nowhere where they are closed.

    A closed descriptor would otherwise go to the next file that is opened, and output would end up in that. A closed
    standard input stays None in `sys.stdin`: who wants to read it must say that there is nothing.
    """
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, descriptor)
            if nowhere != descriptor:
                os.close(nowhere)
            os.set_inheritable(descriptor, True)
    if sys.stderr is None:
        sys.stderr = os.fdopen(STDERR, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    like = sys.stdout
    if like is not None:
        like.flush()
    sys.stdout = StandardOutput(
        io.BufferedWriter(io.FileIO(STDOUT, "w", closefd=False)),
        encoding="utf-8" if like is None else like.encoding,
        errors="strict" if like is None else like.errors,
        line_buffering=bool(like is not None and like.line_buffering),
    )


def drop_standard_output() -> None:
    """Let standard output lead nowhere from here on, or Python complains once more when it flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)


def silence_libraries() -> None:
    """Keep the messages of TensorFlow and its kin away from standard error; ours still get there.

    TensorFlow's C++ code writes to file descriptor 2 before any setting of it counts. So Python's standard error
    moves to a copy of the descriptor, and the descriptor itself leads nowhere from here on.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.disable(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    sys.stderr.flush()
    ours = os.dup(STDERR)
    sys.stderr = os.fdopen(ours, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    os.close(nowhere)


@contextmanager
def working(quiet: bool) -> Iterator[None]:
    """While a command works, what any library prints goes to standard error, or nowhere when `quiet`."""
    with ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stderr(nowhere))
        stack.enter_context(redirect_stdout(sys.stderr))
        yield


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves a progress bar on standard error; the bar shows on a terminal alone."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = errors()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def results() -> "Console":
    """Return a console on standard output."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty())


def errors() -> "Console":
    """Return a console on standard error."""
    from rich.console import Console

    return Console(stderr=True)


def as_field(text: str) -> str:
    """Return `text` without what would end a field or a line of the output: tab and line ends as \\t, \\n and \\r."""
    return text.translate({ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"})


def print_json(content: Mapping[str, Any]) -> None:
    """Write one JSON object, in one line, to standard output."""
    print(json.dumps(content, ensure_ascii=False, allow_nan=False), flush=True)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Write a result in one line: what it is about, then each name with its number or text."""
    listed = ", ".join(f"{name} {_short(value)}" for name, value in facts.items())
    print(f"{title}: {listed}" if listed else title)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
