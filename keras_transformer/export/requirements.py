"""What must hold before an export starts: model, tokenizer, labels and examples belong together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from keras_transformer.checks import UserError, positive_integer

if TYPE_CHECKING:
    import keras

    from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
    from keras_transformer.data.tokenizer import WordPiece


MOST_TEXT_BYTES = 1 << 20
"""Of a text that a SavedModel reads: a longer one is refused. It takes half a second to cut into pieces."""


class Limits(NamedTuple):
    """Which token ids a model takes, and how many of them in a row."""

    vocab_size: int
    max_length: int
    asked_id: int | None = None  # that each row must hold: of [MASK], where the model says what it hides


def limits(model: "keras.Model", tokenizer: "WordPiece | ReversibleTokenizer", max_length: int) -> Limits:
    """Return what the model itself can take; where it doesn't say, what tokenizer and `max_length` ask for.

    Raises:
        ValueError: if the tokenizer makes ids, or texts as long as `max_length`, that the model can't take.
    """
    positive_integer("max_length", max_length)
    longest = getattr(model, "max_length", None) or max_length
    if max_length > longest:
        raise ValueError(
            f"max_length={max_length} is more than the {longest} positions that model {model.name!r} has. "
            f"Use max_length={longest} or less."
        )
    vocab_size = getattr(model, "vocab_size", None) or tokenizer.vocab_size
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer makes ids up to {tokenizer.vocab_size - 1}, and model {model.name!r} takes ids up to "
            f"{vocab_size - 1}. Export the model with the tokenizer it was trained with."
        )
    return Limits(vocab_size, longest, tokenizer.asked_id)


def length_of(asked: int | None, trained: int) -> int:
    """Return the `max_length` of an export: what the model was trained on, or fewer word pieces if so asked.

    Raises:
        UserError: if more are asked for.
    """
    if asked is not None and asked > trained:
        raise UserError(
            f"--max-length {asked}: the model was trained on texts of up to {trained} word pieces, and an export has "
            f"room for no more. Use {trained} or less, or leave it out."
        )
    return asked or trained


def check_texts(labels: Sequence[str], examples: Sequence[str]) -> None:
    """Raise ValueError for labels that aren't distinct texts, or examples that prove nothing."""
    if len(labels) < 2 or len(set(labels)) < len(labels) or not all(isinstance(label, str) for label in labels):
        raise ValueError(
            f"labels={list(labels)!r} must be at least two distinct texts, in the order of the logits. "
            "Use for example labels=['negative', 'positive']."
        )
    check_examples(examples)


def check_examples(examples: Sequence[str]) -> None:
    """Raise ValueError for examples that prove nothing."""
    if isinstance(examples, str) or not examples:
        raise ValueError(
            f"examples={examples!r} can't prove an export. Pass a list of texts like those that the model will see."
        )


def check_lengths(texts: Sequence[bytes]) -> None:
    """Raise UserError for a text that is longer than a SavedModel reads; the graph would say so less clearly."""
    for text in texts:
        if len(text) > MOST_TEXT_BYTES:
            raise UserError(
                f"a text has {len(text)} bytes, and a SavedModel reads texts of up to {MOST_TEXT_BYTES}. "
                "Cut it, or ask the run folder or a .tflite file."
            )


def check_classes(model: "keras.Model", labels: Sequence[str]) -> None:
    """Raise ValueError unless the model's one output is logits (N, C) with a column for each label."""
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != len(labels):
        raise ValueError(
            f"model {model.name!r} gives outputs of shape {shape}, and {len(labels)} labels need "
            f"(None, {len(labels)}). Pass one label for each logit, in their order."
        )
