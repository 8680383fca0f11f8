"""One line in, one line out: texts of the command line or of standard input, and answers beside them."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

from keras_transformer.checks import UserError

READ_BYTES = 1 << 16
MOST_TEXTS = 64  # a call

Read = str | UserError
"""A text, or what is wrong with it."""

Answer = Callable[[list[str], int], Iterable[str]]
"""(texts, how many came before them) -> a line for each."""


def read_texts(texts: Sequence[str] | None) -> Iterator[list[Read]]:
    """Check the texts of the command line, or yield the lines of standard input as they come, in several lists.

    Raises:
        UserError: for a text of the command line with nothing in it, or if there are none and standard input is closed.
    """
    given = [_checked(text, f"text {number}") for number, text in enumerate(texts or [], 1)]
    refuse(given)
    if not given and sys.stdin is None:
        raise UserError("standard input is closed, and no TEXT was given. Give a text, or pipe lines into the command.")
    return iter([given]) if given else _lines_of_stdin()


def read_all(batches: Iterable[list[Read]]) -> list[str]:
    """Return all texts.

    Raises:
        UserError: for the first that can't be answered.
    """
    every = [text for batch in batches for text in batch]
    refuse(every)
    return [text for text in every if isinstance(text, str)]


def refuse(texts: Iterable[Read]) -> None:
    """Raise the first error among `texts`."""
    for text in texts:
        if isinstance(text, UserError):
            raise text


def in_calls(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of as many as one call takes."""
    for start in range(0, len(texts), MOST_TEXTS):
        yield list(texts[start : start + MOST_TEXTS])


def print_answers(batches: Iterable[list[Read]], answer: Answer) -> None:
    """Print a line for each text as soon as its batch is answered; an empty one for what can't be answered.

    Raises:
        UserError: at the end, for the first that couldn't be answered.
    """
    number, readable, mistakes, first = 0, 0, 0, ""
    for batch in batches:
        texts = [text for text in batch if isinstance(text, str)]
        answers = (line for call in _numbered(texts, readable) for line in answer(*call))
        for text in batch:
            number += 1
            if isinstance(text, UserError):
                mistakes, first = mistakes + 1, first or str(text)
                print()
            else:
                print(next(answers))
        readable += len(texts)
        sys.stdout.flush()
    if mistakes:
        raise UserError(f"{first} Without an answer: {mistakes} of {number} lines, each an empty line in the output.")


def _numbered(texts: list[str], before: int) -> Iterator[tuple[list[str], int]]:
    for call in in_calls(texts):
        yield call, before
        before += len(call)


def _checked(text: str, place: str) -> Read:
    if text.strip():
        return text
    return UserError(f"{place} is {text!r}: there is nothing to read in it. Give at least a word.")


def _lines_of_stdin() -> Iterator[list[Read]]:
    """Yield the lines that have come in so far, so that a pipe that stays open gets its answers at once."""
    number, rest = 0, b""
    stream = cast(io.BufferedReader, sys.stdin.buffer)
    while chunk := stream.read1(READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [_decoded(line, number + place) for place, line in enumerate(lines, 1)]
        number += len(lines)
    if rest:
        yield [_decoded(rest, number + 1)]


def _decoded(line: bytes, number: int) -> Read:
    try:
        return _checked(line.removesuffix(b"\r").decode("utf-8"), f"line {number}")
    except UnicodeDecodeError as error:
        return UserError(
            f"line {number}: the line {line[:40]!r} isn't UTF-8 ({error.reason}). Convert the input to UTF-8."
        )
