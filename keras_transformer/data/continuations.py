"""What a language model reads before it writes, and what it is scored on. Imports no TensorFlow."""

from collections.abc import Sequence
from typing import NamedTuple

from keras_transformer.checks import UserError
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer

WHOLE = 1 << 30  # a length that no text has


class Beginnings(NamedTuple):
    """Texts that are to be continued."""

    whole: list[list[int]]  # the ids of each text, without an end
    prompts: list[list[int]]  # what the model reads of each


def new_tokens(max_length: int, asked: int | None) -> int:
    """How many tokens a language model writes at most: what is asked for, else half of its room.

    Raises:
        UserError: if so many leave no room for one to start from.
    """
    if max_length < 2:
        raise UserError(
            f"the model has room for {max_length} word piece, which the one that it starts from takes. "
            "Train it with --max-length 3 or more."
        )
    most = asked or max(1, max_length // 2)
    if most >= max_length:
        raise UserError(
            f"--max-tokens {most}: the model has room for {max_length} word pieces, those it starts from "
            f"included. Use {max_length - 1} or less."
        )
    return most


def beginnings(tokenizer: ReversibleTokenizer, texts: Sequence[str], longest: int) -> Beginnings:
    """The ids of each text, and those that the model reads: the end of another text, then as much as fits of this one.

    A text begins where another one ended. Of one that is longer than `longest` tokens the last ones are read.
    """
    whole = [ids[:-1] for ids in tokenizer.encode(texts, WHOLE)]
    return Beginnings(whole, [[tokenizer.end_id, *ids][-longest:] for ids in whole])


def windows(tokenizer: ReversibleTokenizer, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """What a language model is scored on: runs of up to `max_length` + 1 ids, each to be foreseen from those before.

    Each text begins with the end of another and ends with its own. The last id of a run is the first of the next, so
    that each is foreseen once.
    """
    streams = [[tokenizer.end_id, *ids] for ids in tokenizer.encode(texts, WHOLE)]
    return [
        stream[start : start + max_length + 1] for stream in streams for start in range(0, len(stream) - 1, max_length)
    ]
