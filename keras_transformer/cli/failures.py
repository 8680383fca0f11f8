"""Every way for a command to end badly, as one line on standard error and an exit code.

2: the user's mistake, with what came in, the rule and the fix. 1: a fault of ours. 130: stopped by Ctrl-C.
"""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType

import typer

from keras_transformer.checks import UserError
from keras_transformer.files import FULL_DISK

PROGRAM = "keras-transformer"
SHOW_TRACEBACK = "KERAS_TRANSFORMER_TRACEBACK"
FAULT_OF_OURS, USERS_MISTAKE, INTERRUPTED = 1, 2, 130


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks and the libraries' own messages."""
    return os.environ.get(SHOW_TRACEBACK, "") not in ("", "0")


def say(line: str) -> None:
    """Write one line to standard error."""
    print(f"{PROGRAM}: {one_line(line)}", file=sys.stderr)


def one_line(text: str) -> str:
    """Return `text` with every run of white space, line ends included, as one space."""
    return " ".join(text.split())


def usage_line(error: typer.TyperException, arguments: Sequence[str]) -> str:
    """Return what is wrong with an option or argument, what came in, and the help page that says more."""
    # typer puts this before the message of a choice that doesn't exist
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    names = getattr(getattr(error, "param", None), "opts", [])
    value = _value_given(names, arguments)
    if value is not None and value not in message:
        message = message.replace(": ", f", {value!r}: ", 1)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    return f"{message}{'' if message.endswith('?') else '.'} Try '{command} --help'."


def _value_given(names: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Return what stands after an option on the command line, or None."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        if argument in names:
            return following
        if argument.partition("=")[0] in names:
            return argument.partition("=")[2]
    return None


def is_users_mistake(error: Exception) -> bool:
    """Whether it is the user's to mend: a UserError, a ValueError that a check of ours raised, or a full disk."""
    if isinstance(error, UserError) or is_full_disk(error):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return isinstance(error, ValueError) and modules[-1].split(".")[0] == "keras_transformer"


def users_line(error: Exception) -> str:
    """Return what the user is told of a mistake of theirs."""
    if isinstance(error, UserError) or not is_full_disk(error):
        return str(error)
    reason = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", str(error)).strip()  # TensorFlow's own node names
    return f"the disk is full, nothing was written ({reason}). Free some room or give another place."


def is_full_disk(error: Exception) -> bool:
    """Whether the disk was full, by the error's number; TensorFlow's own classes have the system's words alone."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    tensorflow = sys.modules.get("tensorflow")
    of_tensorflow = tensorflow is not None and isinstance(error, tensorflow.errors.OpError)
    return of_tensorflow and any(os.strerror(code) in str(error) for code in FULL_DISK)


def kinds_to_look_at() -> tuple[type[Exception], ...]:
    """Return the classes of errors that can be the user's mistake; TensorFlow's only where it was imported."""
    tensorflow = sys.modules.get("tensorflow")
    return (ValueError, OSError) if tensorflow is None else (ValueError, OSError, tensorflow.errors.OpError)


def report_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Take the place of `sys.excepthook`: a fault of ours in one line; Python then exits with 1."""
    if wants_traceback():
        sys.__excepthook__(kind, error, trace)
        return
    say(
        f"this is a fault of ours, {kind.__name__}: {one_line(str(error)) or 'no message'} "
        f"(set {SHOW_TRACEBACK}=1 and run it again to see where, then please report it)"
    )
