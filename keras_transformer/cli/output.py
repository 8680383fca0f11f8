"""What a command writes where: its result on standard output, all else on standard error."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


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
    ours = os.dup(2)
    sys.stderr = os.fdopen(ours, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
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


def print_json(content: Mapping[str, Any]) -> None:
    """Write one JSON object, in one line, to standard output."""
    print(json.dumps(content, ensure_ascii=False, allow_nan=False))


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Write a result in one line: what it is about, then each name with its number or text."""
    listed = ", ".join(f"{name} {_short(value)}" for name, value in facts.items())
    print(f"{title}: {listed}" if listed else title)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
