"""From a prepared model to a flatbuffer with int4 and int8 weights: choose them, or take them from a recipe."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_transformer.export.attachments import FLATBUFFER, Attachments, Part, length_in_file
from keras_transformer.export.bit_choice import (
    Sensitivities,
    choose_bits,
    mixed_recipe,
    require_known,
    sensitivities,
)
from keras_transformer.export.integer_forms import Calibrated, Recipe
from keras_transformer.export.lite_converter import ATTENTION_TEXTS, calibration, float_flatbuffer
from keras_transformer.export.lite_runner import LiteRunner
from keras_transformer.export.preparation import Prepared

UNKNOWN_PART = Part("0123456789abcdef" * 4, 10**9)
PACKING = 64  # bytes by which what travels in a file may be longer with another checksum


class Mixed(NamedTuple):
    """What was chosen, and what it makes of a model."""

    flatbuffer: bytes
    recipe: Recipe


def chosen(
    prepared: Prepared,
    attachments: Callable[[dict[str, Part]], Attachments],
    *,
    max_bytes: int | None = None,
    max_damage: float | None = None,
) -> Mixed:
    """Choose between int4 and int8 for each of the weights, by what LiteRT says of every second example.

    Args:
        prepared: the others of its examples are left to prove the file with.
        attachments: gives what will travel behind the flatbuffer, whose length counts.
        max_bytes: of the whole file.
        max_damage: as in `bit_choice.choose_bits`.

    Raises:
        UserError: if int4 wherever it can be isn't small enough.
    """
    calibrated = _calibrated(prepared)
    seen = prepared._replace(token_ids=prepared.token_ids[::2])
    found = sensitivities(calibrated, lambda content: lite_logits(seen, content))
    beside = length_in_file(attachments({FLATBUFFER: UNKNOWN_PART})) + PACKING
    measured = found._replace(largest_bytes=found.largest_bytes + beside, smallest_bytes=found.smallest_bytes + beside)
    if max_bytes is None:
        choice = choose_bits(measured, max_damage=max_damage)
        recipe = mixed_recipe(calibrated.flatbuffer, choice)
        return Mixed(calibrated.quantized(recipe), recipe)
    return made_within(calibrated, measured, max_bytes, beside)


def made_within(calibrated: Calibrated, measured: Sensitivities, max_bytes: int, beside: int = 0) -> Mixed:
    """Choose for fewer bytes until what is made has no more than `max_bytes`: single savings add up to nearly theirs.

    Args:
        calibrated: what was measured.
        measured: its lengths include `beside`.
        max_bytes: of the flatbuffer and what is beside it.
        beside: bytes.

    Raises:
        UserError: if int4 wherever it can be isn't small enough.
    """
    wanted = max_bytes
    while True:
        recipe = mixed_recipe(calibrated.flatbuffer, choose_bits(measured, max_bytes=wanted))
        made = Mixed(calibrated.quantized(recipe), recipe)
        over = len(made.flatbuffer) + beside - max_bytes
        if over <= 0 or wanted == measured.smallest_bytes:
            return made
        wanted = max(wanted - over, measured.smallest_bytes)


def by_recipe(prepared: Prepared, recipe: Recipe) -> bytes:
    """Return the flatbuffer of a model with the integers of a recipe, whose ranges come from the examples.

    Raises:
        UserError: if the recipe was made for another model.
    """
    flatbuffer = float_flatbuffer(prepared)
    require_known(flatbuffer, recipe)
    return Calibrated(flatbuffer, recipe, calibration(prepared, ATTENTION_TEXTS)).quantized(recipe)


def lite_logits(prepared: Prepared, content: bytes) -> np.ndarray:
    """Return what LiteRT makes of the examples, (N, C), each at its own length."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mixed.tflite"
        path.write_bytes(content)
        return prepared.run(LiteRunner(path), batch_size=1)


def _calibrated(prepared: Prepared) -> Calibrated:
    flatbuffer = float_flatbuffer(prepared)
    return Calibrated(flatbuffer, mixed_recipe(flatbuffer), calibration(prepared, ATTENTION_TEXTS))
