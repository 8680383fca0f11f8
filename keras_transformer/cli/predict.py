"""`keras-transformer predict`: the label of each text, one line in, one line out."""

import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from keras_transformer.checks import UserError
from keras_transformer.cli.options import AsJson, ModelPath, Quiet
from keras_transformer.cli.output import as_field, print_json, working

if TYPE_CHECKING:
    from keras_transformer.serving import Predictor

READ_BYTES = 1 << 16
MOST_TEXTS = 64  # a call

Read = str | UserError
"""A text, or what is wrong with it."""


def predict(
    path: ModelPath,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="texts; without any, each line of standard input", show_default=False),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the label of each text and its score (0 to 1), with a tab between: one line in, one line out.

    A line of standard input that has no word or isn't UTF-8 gets an empty line, so that the others stay beside their
    answers; the first such line is named at the end, with exit code 2. Where answers can't be given bit by bit (texts
    on the command line, --json) nothing is printed then. A tab or line end in a label is printed as \\t or \\n.

    A .tflite file is answered without TensorFlow, so that the first answer comes in half a second.
    """
    given = [_checked(text, f"text {number}") for number, text in enumerate(texts or [], 1)]
    _refuse(given)
    if not given and sys.stdin is None:
        raise UserError("standard input is closed, and no TEXT was given. Give a text, or pipe lines into the command.")
    with working(quiet):
        from keras_transformer import serving

        predictor = serving.load(path)
    batches = iter([given]) if given else _lines_of_stdin()
    if as_json:
        every = [text for batch in batches for text in batch]
        _refuse(every)
        print_json({"predictions": [_with_scores(predictor, *answer) for answer in _answers(predictor, every, quiet)]})
    else:
        _print_lines(predictor, batches, quiet)


def _print_lines(predictor: "Predictor", batches: Iterator[list[Read]], quiet: bool) -> None:
    """Print a line for each text as soon as its batch is answered; an empty one for what can't be answered."""
    number, mistakes, first = 0, 0, ""
    for batch in batches:
        answers = _answers(predictor, batch, quiet)
        for text in batch:
            number += 1
            if isinstance(text, UserError):
                mistakes, first = mistakes + 1, first or str(text)
                print()
            else:
                label, scores = next(answers)
                print(f"{as_field(label)}\t{max(scores):.4f}")
        sys.stdout.flush()
    if mistakes:
        raise UserError(f"{first} Without an answer: {mistakes} of {number} lines, each an empty line in the output.")


def _answers(predictor: "Predictor", texts: list[Read], quiet: bool) -> Iterator[tuple[str, Any]]:
    """Yield label and scores (C,) of each text that can be answered."""
    readable = [text for text in texts if isinstance(text, str)]
    for start in range(0, len(readable), MOST_TEXTS):
        with working(quiet):
            labels, scores = predictor.predict(readable[start : start + MOST_TEXTS])
        yield from zip(labels, scores, strict=True)


def _with_scores(predictor: "Predictor", label: str, scores: Any) -> dict[str, Any]:
    by_label = {name: float(score) for name, score in zip(predictor.labels, scores, strict=True)}
    return {"label": label, "score": max(by_label.values()), "scores": by_label}


def _refuse(texts: list[Read]) -> None:
    for text in texts:
        if isinstance(text, UserError):
            raise text


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
