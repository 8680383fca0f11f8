"""Processes of their own for programs that need TensorFlow: its import takes longer than most of them, so it is shared.

A program starts in a fork of a process that has imported TensorFlow and Keras, and nothing else, and used neither.
Tests of what a program imports, or prints while it does, start their own.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

SERVER = Path(__file__).parent / "forking_server.py"


class Program:
    """A running program; its output is there when it has ended."""

    def __init__(self, server: subprocess.Popen, streams: list[Path]) -> None:
        self.server, self.streams = server, streams
        self.pid = int(server.stdout.readline())

    def wait(self) -> subprocess.CompletedProcess:
        """Wait until it has ended; its exit code is minus the signal that killed it."""
        code = int(self.server.stdout.readline())
        out, err = (path.read_text() for path in self.streams[1:])
        return subprocess.CompletedProcess([], code, out, err)


class Forks:
    """Starts programs, one at a time."""

    def __init__(self) -> None:
        self.server: subprocess.Popen | None = None
        self.folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.server is not None:
            with contextlib.suppress(BrokenPipeError):
                self.server.stdin.close()
            self.server.wait()
            self.server.stdout.close()
        self.folder.cleanup()

    def start(self, code: str, *arguments: object, given: str = "", folder: Path | None = None) -> Program:
        """Start `python -c code arguments...` with `given` as standard input."""
        if self.server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.server = subprocess.Popen([sys.executable, SERVER], text=True, bufsize=1, **pipes)
        streams, place = list(self._streams(given)), str(folder or Path.cwd())
        named = {"arguments": list(map(str, arguments)), "folder": place, "streams": list(map(str, streams))}
        self.server.stdin.write(json.dumps({"code": code, **named}) + "\n")
        self.server.stdin.flush()
        return Program(self.server, streams)

    def run(self, code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
        """Start it and wait."""
        return self.start(code, *arguments, **options).wait()

    def _streams(self, given: str) -> Iterator[Path]:
        for name, text in (("in", given), ("out", ""), ("err", "")):
            descriptor, path = tempfile.mkstemp(f".{name}", dir=self.folder.name)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            yield Path(path)
