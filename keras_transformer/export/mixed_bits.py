"""Choose for a model which of its weights a `.tflite` file has in 4 bits and which in 8, to be written as chosen."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    from keras_transformer.data.tokenizer import WordPiece

MIXED, MIXED_FORMAT = "mixed", "tflite_mixed"
"""Of `export.tflite`: its `quantize`, and what the report and the file's settings say."""


def mixed_bits(
    model: "keras.Model",
    *,
    tokenizer: "WordPiece",
    labels: Sequence[str],
    max_length: int,
    examples: Sequence[str],
    max_bytes: int | None = None,
    max_damage: float | None = None,
    task: str = "classify",
) -> list[dict[str, Any]]:
    """Return which weights take int4 and which int8, as a recipe for `export.tflite(..., quantize="mixed")`.

    Each dense product's weights go to int4 alone, all others being int8, and LiteRT says how much the logits change on
    every second example. Those that save the most bytes for the least change take int4. Tables and the last product
    stay int8, softmax, norms and convolutions float32. The recipe is ai-edge-quantizer's, lists and dictionaries for
    `json`, and fits this model alone.

    Args:
        model: token ids (N, T) int32 -> logits (N, C).
        tokenizer: as for `export.tflite`, and so the others.
        labels: name of each class.
        max_length: texts are cut to so many word pieces.
        examples: texts like those that the model will see.
        max_bytes: of the whole file; the least damage is done that this needs.
        max_damage: or the largest sum of mean squared changes of the logits, in units of their mean square, below
            which as many bytes are saved as can be.
        task: as for `export.tflite`.

    Raises:
        UserError: if int4 wherever it can be isn't small enough; the message says what is.
        ValueError: unless just one of the limits is given, or for parts that don't belong together.
    """
    require_one(max_bytes=max_bytes, max_damage=max_damage)
    from keras_transformer.export.lite_converter import require_form
    from keras_transformer.export.lite_mixed import chosen
    from keras_transformer.export.preparation import prepare

    require_form(model, MIXED)
    prepared = prepare(model, tokenizer, labels, max_length, examples)
    return chosen(
        prepared,
        partial(prepared.attachments, MIXED_FORMAT, task),
        max_bytes=max_bytes,
        max_damage=max_damage,
    ).recipe


def require_one(**limits: object) -> None:
    """Refuse anything but one argument that isn't None.

    Raises:
        ValueError: names them.
    """
    given = [name for name, value in limits.items() if value is not None]
    if len(given) != 1:
        first, second = limits
        raise ValueError(
            f"{' and '.join(given) or 'neither of them'} given, and the choice between int4 and int8 takes just one of "
            f"{first} and {second}. Use for example {first}={50_000}."
        )
