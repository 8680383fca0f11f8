"""Imports TensorFlow and Keras and uses neither; then runs each program that it is told of in a fork of itself.

A request is a line of JSON: the program, its arguments, and the files that are its standard input, output and error.
The answers are two lines: the number of the new process at once, and its exit code when it has ended.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback

MOST_SECONDS = 600
"""After which a program is ended by SIGALRM: one that hangs fails its test."""


def serve() -> None:
    """Answer all requests."""
    for name in ("tensorflow", "keras"):
        importlib.import_module(name)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)  # a fork must not have read ahead
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    while line := requests.readline():
        if child := os.fork():
            answers.write(b"%d\n" % child)
            answers.write(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        else:
            requests.close()
            answers.close()
            become(**json.loads(line))


def become(code: str, arguments: list[str], folder: str, streams: list[str]) -> None:
    """Be `python -c code arguments` in `folder`; never returns."""
    os.chdir(folder)
    for number, (path, flags) in enumerate(zip(streams, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(MOST_SECONDS)
    sys.argv, sys.path[0] = ["-c", *arguments], ""
    status = run(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def run(code: str) -> int:
    """The exit code of a program."""
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
