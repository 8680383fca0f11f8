"""A `.tflite` file that writes texts: a prompt and a step for LiteRT, with tokenizer and settings inside."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_transformer import files
from keras_transformer.checks import one_of
from keras_transformer.export.lite_state import TOKEN_IDS
from keras_transformer.export.lite_steps import PROMPT, STEP, TOKENS, LiteSteps
from keras_transformer.export.tflite import FORMATS, QUANTIZATIONS, TOLERANCES, write_whole
from keras_transformer.export.writing_parity import (
    WritingParity,
    WritingReport,
    compare_writing,
    require_token_agreement,
    require_token_logits,
)
from keras_transformer.tasks import LANGUAGE_MODEL

if TYPE_CHECKING:
    import keras

    from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
    from keras_transformer.export.writing import PreparedWriting

MIN_AGREEMENT = 0.95
"""Of the tokens. A model of texts is often torn between two words, where a classifier has a clear favourite."""

FIXES = {
    "none": "Pass a larger tolerance if you can live with that.",
    "float16": "Try quantize='none', or pass a larger tolerance.",
    "dynamic": "Try quantize='float16', or pass a lower min_agreement.",
    **dict.fromkeys(("int8", "int16", "int4"), "Try quantize='dynamic', or pass a lower min_agreement."),
}
CALIBRATION_TEXTS = 16  # of the examples: each has many steps


def tflite_writer(
    model: "keras.Model",
    path: Path | str,
    *,
    tokenizer: "ReversibleTokenizer",
    task: str,
    max_length: int,
    examples: Sequence[str],
    quantize: str = "dynamic",
    tolerance: float | None = None,
    min_agreement: float = MIN_AGREEMENT,
) -> WritingReport:
    """Write a model that writes texts as one `.tflite` file, reload it with LiteRT, and prove that it agrees.

    `prompt` takes `token_ids` (1, T) int32, a source or the beginning of a text, and gives `logits` (1, V) float32 of
    the first new token and the state: `position`, `key_0`, `value_0` and so on, and of a translator `memory_key_0`,
    ..., `memory_mask`. `step` takes `token_ids` (1,) and the state, and gives the next `logits`, the next `position`
    and `new_key_0` (1, G, 1, d), `new_value_0` and so on, which the caller puts into place `position` of `key_0`
    (1, G, S, d), `value_0`. So no cache is copied for a token, and the caller chooses the tokens:
    `generation.load(path)` does, greedily, by drawing or by a beam search. A language model also has `tokens`: ids
    (1, T) -> `logits` (1, T, V). There are only built-in operators. The kernels check neither ids nor room.

    It is compared token by token on what Keras writes for the examples, up to 64 tokens for each of the first 64.

    Args:
        model: a `Seq2Seq` or `CausalLM`; one in mixed precision is written, and compared, in float32.
        path: the file to write.
        tokenizer: the one that the model was trained with; it travels in the file.
        task: "translate" or "language-model".
        max_length: the room: ids of a source, and tokens of a translation, or of a text and what is added to it.
        examples: texts like those that the model will see.
        quantize: "none": float32. "float16": weights in half the bytes, computed in float32. "dynamic": int8 weights,
            float32 activations. "int8", "int16" and "int4" as `export.tflite` has them, with the attention in float32.
        tolerance: largest difference in a logit that is let through, as a share of the largest logit, or of 1;
            None = 1e-4 for "none", 1e-2 for "float16", and no limit for the integer forms.
        min_agreement: share of the tokens that must stay the likeliest in the integer forms.

    Raises:
        ParityError: if the file is over a limit; the message says which knob to turn. Nothing is left in place then.
        UserError: if the place can't be written, the tokenizer's ids can't become a text again, `max_length` is 1, or
            the model has an operator that LiteRT lacks.
        ValueError: for an unknown `quantize` or `task`, a `quantize` that the model was not trained for, or parts
            that don't belong together.
    """
    one_of("quantize", quantize, QUANTIZATIONS)
    from keras_transformer.export.lite_converter import flatbuffer, require_form, without_rounding
    from keras_transformer.export.writing import prepare_writing, whole_logits, writing_of
    from keras_transformer.export.writing_signatures import lite_signatures

    require_form(model, quantize)
    prepared = prepare_writing(model, tokenizer, task, max_length, examples)
    writing = prepared.writing
    exact, learned = without_rounding(writing.model)
    with files.staged(path) as staging:
        operators = write_whole(
            staging,
            flatbuffer(
                exact,
                lite_signatures(writing_of(exact, tokenizer, task, max_length)),
                quantize,
                partial(_calibration, prepared),
                learned,
            ),
            lambda parts: prepared.attachments(FORMATS[quantize], parts),
            path,
        )
        result = compare_writing(whole_logits(writing), LiteSteps(staging).choices, prepared.pairs)
        _require(result, quantize, tolerance, min_agreement, path)
    return WritingReport.of(
        path, FORMATS[quantize], result, operators, same_texts=result.same_texts, texts=result.texts
    )


def _calibration(prepared: "PreparedWriting", float_model: bytes) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """What the signatures are asked on the way through some examples."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float32.tflite"
        path.write_bytes(float_model)
        steps = LiteSteps(path)
        for prompt, written in prepared.pairs[::2][:CALIBRATION_TEXTS]:  # the others prove the ranges
            yield PROMPT, {TOKEN_IDS: np.array([prompt], np.int32)}
            if prepared.writing.task == LANGUAGE_MODEL:
                yield TOKENS, {TOKEN_IDS: np.array([[*prompt, *written[:-1]]], np.int32)}
            begun = steps.begin(prompt)
            for token_id in written[:-1] or written:  # a text of one token has a step too, or none would be seen
                yield STEP, begun.state.inputs(token_id)
                begun = steps.step(token_id, begun.state)


def _require(
    result: WritingParity, quantize: str, tolerance: float | None, min_agreement: float, path: Path | str
) -> None:
    limit = TOLERANCES.get(quantize) if tolerance is None else tolerance
    if limit is not None:
        require_token_logits(result, limit, path, FIXES[quantize])
    if quantize not in TOLERANCES:
        require_token_agreement(result, min_agreement, path, FIXES[quantize])
