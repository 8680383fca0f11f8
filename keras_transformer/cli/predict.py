"""`keras-transformer predict`: the label of each text, one line in, one line out."""

import io
import sys
from collections.abc import Iterator
from typing import Annotated, cast

import typer

from keras_transformer.checks import UserError
from keras_transformer.cli.options import AsJson, ModelPath, Quiet
from keras_transformer.cli.output import print_json, working

READ_BYTES = 1 << 16
MOST_TEXTS = 64  # a call


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

    A .tflite file is answered without TensorFlow, so that the first answer comes in half a second.
    """
    with working(quiet):
        from keras_transformer import serving

        predictor = serving.load(path)
    answers = []
    batches = _checked(iter([texts]), "text") if texts else _checked(_lines_of_stdin(), "line")
    for batch in batches:
        with working(quiet):
            labels, scores = predictor.predict(batch)
        for label, row in zip(labels, scores, strict=True):
            if as_json:
                by_label = {name: float(score) for name, score in zip(predictor.labels, row, strict=True)}
                answers.append({"label": label, "score": max(by_label.values()), "scores": by_label})
            else:
                print(f"{label}\t{max(row):.4f}")
        sys.stdout.flush()
    if as_json:
        print_json({"predictions": answers})


def _checked(batches: Iterator[list[str]], what: str) -> Iterator[list[str]]:
    """Yield batches of at most MOST_TEXTS, in which every text has something to read."""
    number = 0
    for batch in batches:
        for text in batch:
            number += 1
            if not text.strip():
                raise UserError(f"{what} {number} is {text!r}: there is nothing to read in it. Give at least a word.")
        for start in range(0, len(batch), MOST_TEXTS):
            yield batch[start : start + MOST_TEXTS]


def _lines_of_stdin() -> Iterator[list[str]]:
    """Yield the lines that have come in so far, so that a pipe that stays open gets its answers at once."""
    rest = b""
    stream = cast(io.BufferedReader, sys.stdin.buffer)
    while chunk := stream.read1(READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [_decoded(line) for line in lines]
    if rest:
        yield [_decoded(rest)]


def _decoded(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the line {line[:40]!r} isn't UTF-8 ({error.reason}). Convert the input to UTF-8.") from error
