"""A `.tflite` file that is whole: the model for LiteRT, with its tokenizer, labels and settings inside."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transformer import files
from keras_transformer.checks import UserError, one_of
from keras_transformer.export.attachments import (
    FLATBUFFER,
    Attachments,
    Part,
    append_to_file,
    part_of_file,
    read_from_file,
)
from keras_transformer.export.lite_operators import operator_names
from keras_transformer.export.lite_runner import LiteRunner
from keras_transformer.export.mixed_bits import MIXED, MIXED_FORMAT, require_one
from keras_transformer.export.parity import ExportReport, Parity, compare, require_agreement, require_logits

if TYPE_CHECKING:
    import keras

    from keras_transformer.data.tokenizer import WordPiece
    from keras_transformer.export.preparation import Prepared

FORMATS = {
    "none": "tflite_float32",
    "float16": "tflite_float16",
    "dynamic": "tflite_int8",
    "int8": "tflite_static_int8",
    "int16": "tflite_int16",
    "int4": "tflite_int4",
}
QUANTIZATIONS = tuple(FORMATS)
"""Those that need no more said. A classifier also takes "mixed"."""
TOLERANCES = {"none": 1e-4, "float16": 1e-2}
"""Largest difference in a logit. The forms with integer weights are held to `min_agreement` instead."""
MIN_AGREEMENT = 0.98
FIXES = {
    "none": "Check that padding (id 0) can't change the model's answer, or pass a larger tolerance.",
    "float16": "Try quantize='none', or pass a larger tolerance.",
    "dynamic": "Try quantize='float16', or pass a lower min_agreement.",
    "int8": "Try quantize='dynamic', which fixes ranges for attention alone, or pass a lower min_agreement.",
    "int16": "Try quantize='dynamic', which fixes ranges for attention alone, or pass a lower min_agreement.",
    "int4": "Try quantize='dynamic', whose weights have 8 bits, or pass a lower min_agreement.",
    MIXED: "Try a larger max_bytes, for which more weights have 8 bits, or pass a lower min_agreement.",
}


def tflite(
    model: "keras.Model",
    path: Path | str,
    *,
    tokenizer: "WordPiece",
    labels: Sequence[str],
    max_length: int,
    examples: Sequence[str],
    quantize: str = "dynamic",
    tolerance: float | None = None,
    min_agreement: float = MIN_AGREEMENT,
    max_bytes: int | None = None,
    recipe: list[dict[str, Any]] | None = None,
    task: str = "classify",
) -> ExportReport:
    """Write `model` as one `.tflite` file, reload it with LiteRT, and prove that it agrees.

    Its signature `tokens` takes `token_ids` (1, T) int32 and gives `logits` (1, C) float32, for any T up to the
    model's own limit: a text runs at its own length. The kernels check neither ids nor length, so a caller must;
    `serving.load` does. The file holds built-in operators only. A model in mixed precision is written, and compared,
    in float32. One that was trained by `compression.quantization_aware` is written with the ranges that it learned,
    and compared as it computes, with its rounding.

    Args:
        model: token ids (N, T) int32 -> logits (N, C).
        path: the file to write.
        tokenizer: the one that the model was trained with; it travels in the file.
        labels: name of each class, in the order of the logits.
        max_length: texts are cut to so many word pieces.
        examples: texts with which the file is compared; from every second one the integer forms take their ranges.
        quantize: "none": float32. "float16": weights in half the bytes, computed in float32. "dynamic": int8 weights,
            float32 activations, and int8 products in self-attention, whose ranges are fixed here. "int8": as "dynamic",
            and int8 activations around the dense products, in ranges fixed here too; softmax and norms stay in float32.
            "int16": the same with int16 activations and float32 attention, which takes 30 times as long on a processor,
            and more. "int4": int4 weights, int8 tables, float32 activations. "mixed": as "dynamic", with int4 for the
            weights that can best do with it, by `max_bytes` or a `recipe`.
        tolerance: largest difference in a logit that is let through; None = 1e-4 for "none", 1e-2 for "float16", and
            no limit for the integer forms.
        min_agreement: share of examples that must keep their best label in the integer forms.
        max_bytes: for "mixed": the longest that the file may be. As many weights go to int4 as that needs, first those
            whose 4 bits change the logits of every second example least for each byte.
        recipe: or what `mixed_bits` returned for this model.
        task: written into the settings.

    Raises:
        ParityError: if the file's answers are over a limit; the message says which knob to turn.
        UserError: if the place can't be written, the model has an operator that LiteRT lacks, `max_bytes` is too few,
            or the recipe another model's.
        ValueError: for an unknown `quantize`, one that the model was not trained for, or parts that don't belong
            together.
    """
    one_of("quantize", quantize, (*QUANTIZATIONS, MIXED))
    _check_mixed(quantize, max_bytes, recipe)
    from keras_transformer.export.lite_converter import convert, require_form
    from keras_transformer.export.preparation import prepare

    require_form(model, quantize)
    form = FORMATS.get(quantize, MIXED_FORMAT)
    prepared = prepare(model, tokenizer, labels, max_length, examples)
    attachments = partial(prepared.attachments, form, task)
    with files.staged(path) as staging:
        mixed = quantize == MIXED
        flatbuffer = _mixed(prepared, attachments, max_bytes, recipe) if mixed else convert(prepared, quantize)
        operators = write_whole(staging, flatbuffer, attachments, path)
        logits = prepared.run(LiteRunner(staging), batch_size=1)
        result = compare(prepared.reference, logits)
        _require(result, quantize, tolerance, min_agreement, path)
    return ExportReport.of(path, form, result, operators)


def write_whole(
    staging: Path, flatbuffer: bytes, attachments: Callable[[dict[str, Part]], Attachments], path: Path | str
) -> list[str]:
    """Write a flatbuffer with what travels in it, read that again, and return the names of its operators.

    Args:
        staging: the file to write.
        flatbuffer: goes to its front.
        attachments: gives what travels behind it, which records the front.
        path: the file's later place, for an error.

    Raises:
        UserError: if there are operators of TensorFlow among those of the flatbuffer.
    """
    staging.write_bytes(flatbuffer)
    operators = operator_names(staging)
    flex_ops = [name for name in operators if name.startswith("Flex")]
    if flex_ops:
        raise UserError(
            f"{path}: would need {flex_ops}, which a phone has only with all of TensorFlow. Nothing was written. "
            "Write that part of the model with other operators."
        )
    append_to_file(staging, attachments({FLATBUFFER: part_of_file(staging)}))
    read_from_file(staging)
    return operators


def _check_mixed(quantize: str, max_bytes: int | None, recipe: object) -> None:
    """Refuse what says how bits are mixed where they aren't, and a mixture of which nothing is said."""
    if quantize == MIXED:
        require_one(max_bytes=max_bytes, recipe=recipe)
    elif max_bytes is not None or recipe is not None:
        name = "recipe" if max_bytes is None else "max_bytes"
        raise ValueError(
            f"{name} given with quantize={quantize!r}, and only quantize={MIXED!r} chooses bits by it. "
            f"Leave it out, or use quantize={MIXED!r}."
        )


def _mixed(
    prepared: "Prepared",
    attachments: Callable[[dict[str, Part]], Attachments],
    max_bytes: int | None,
    recipe: list[dict[str, Any]] | None,
) -> bytes:
    from keras_transformer.export.lite_mixed import by_recipe, chosen

    if recipe is not None:
        return by_recipe(prepared, recipe)
    return chosen(prepared, attachments, max_bytes=max_bytes).flatbuffer


def _require(result: Parity, quantize: str, tolerance: float | None, min_agreement: float, path: Path | str) -> None:
    limit = TOLERANCES.get(quantize) if tolerance is None else tolerance
    if limit is not None:
        require_logits(result, limit, path, FIXES[quantize])
    if quantize not in TOLERANCES:
        require_agreement(result, min_agreement, path, FIXES[quantize])
