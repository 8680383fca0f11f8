"""A library in a process of its own, asked line by line: both ends. Plain Python, for any interpreter.

The parent holds a `Peer` for each. The child imports a module of this folder, which has `PACKAGES`, whose versions the
parent is told, `OTHERS` if it has some, versions of what isn't a Python package, and `answers(*words)`, which returns
the functions that answer by the name of what is asked. Requests and answers are JSON, one line each; large arrays
travel as files.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

FOLDER = Path(__file__).parents[1]
Thing = TypeVar("Thing")
PAUSE = 0.3  # seconds: threads of the process that worked last spin for a while before they sleep


class Peer:
    """A child process that answers with `peers.<module>`.

    Args:
        name: in tables.
        interpreter: a Python that has the library installed.
        module: its name in this folder.
        words: what its `answers` takes.
        environment: variables beside the own ones.

    Attributes:
        absent: why it can't work, as one line; "" if it can.
        versions: of its libraries.
    """

    def __init__(
        self, name: str, interpreter: str, module: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        if shutil.which(interpreter) is None:
            raise SystemExit(f"{interpreter}: isn't a Python that can be run. Name one that has {name} installed.")
        self._process = subprocess.Popen(
            [interpreter, "-m", "peers.process", module, *words],
            cwd=FOLDER,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        self.absent: str = ready.get("absent", "")
        self.versions: dict[str, str] = ready.get("versions", {})

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: if it failed; the message is the peer's.
        """
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise RuntimeError(f"{self.name}, {do}: its process has ended") from error
        answer = self._answer()
        if "failed" in answer:
            raise RuntimeError(f"{self.name}, {do}: {answer['failed']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            return {"absent": f"its process ended with code {code}", "failed": f"the process ended with code {code}"}
        return json.loads(line)


def serve(module: str, *words: str) -> None:
    """Answer the parent until it closes the line; tell it if something isn't installed."""
    to_parent = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not get between the lines

    def tell(answer: Mapping[str, Any]) -> None:
        to_parent.write(json.dumps(answer) + "\n")
        to_parent.flush()

    try:
        library = importlib.import_module(f"peers.{module}")
    except ImportError as error:
        tell({"absent": " ".join(str(error).split())})
        return
    known = library.answers(*words)
    versions = {name: metadata.version(name) for name in library.PACKAGES}
    tell({"versions": versions | getattr(library, "OTHERS", {})})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            tell(known[request.pop("do")](**request))
        except Exception as error:  # whatever a library raises, the parent shall hear of it
            tell({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


def in_rounds(things: Sequence[Thing], rounds: int) -> Iterator[tuple[int, Thing]]:
    """(round, thing) for each of them in each round, in rotating order; round 0 comes before, to warm up."""
    for turn in range(rounds + 1):
        first = turn % len(things)
        for thing in (*things[first:], *things[:first]):
            yield turn, thing


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `function` takes, after a pause, and what it returns."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    serve(*sys.argv[1:])
