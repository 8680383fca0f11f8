"""Requests that any model of ours answers, for its warm-up and for examples. No text of a user is in them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

TEXT, MASKED_TEXT = "Hello, world.", "[MASK], world."
MOST_TOKENS = 8  # of an answer, where the request says so

Column = list[str] | list[int] | list[list[int]]
Shapes = Mapping[str, Sequence[int]]
"""The shape of each input by its name, -1 where a length is free. Ids are filled up to a length that isn't."""


class Request(NamedTuple):
    """What one signature is asked: each input as a column, with one value a row."""

    signature: str
    inputs: dict[str, Column]


class Encoding(Protocol):
    """A tokenizer."""

    asked_id: int | None

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """The ids of each text, cut to `max_length`."""


def example_requests(signatures: Mapping[str, Shapes], tokenizer: Encoding, max_length: int) -> list[Request]:
    """Return one request of one row for each signature.

    Args:
        signatures: name -> its inputs.
        tokenizer: of the model.
        max_length: of the model; ids are cut to half of it, which leaves a language model room to write.
    """
    text, shortest = (TEXT, 1) if tokenizer.asked_id is None else (MASKED_TEXT, 2)
    (whole,) = tokenizer.encode([text], max_length)
    ids, most = whole[: max(shortest, max_length // 2)], max(1, min(MOST_TOKENS, max_length - 1))
    values: dict[str, Column] = {"text": [text], "max_tokens": [most]}

    def column(name: str, shape: Sequence[int]) -> Column:
        return values.get(name) or [ids + [0] * (shape[1] - len(ids))]

    return [
        Request(signature, {name: column(name, shape) for name, shape in inputs.items()})
        for signature, inputs in signatures.items()
    ]


def repeated(request: Request, rows: int) -> Request:
    """The same request `rows` times in one."""
    return Request(request.signature, {name: [*column] * rows for name, column in request.inputs.items()})
