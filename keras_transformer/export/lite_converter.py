"""From a Keras model to the bytes of a flatbuffer, by way of a SavedModel."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.tools import flatbuffer_utils
from tensorflow.lite.python.convert_phase import ConverterError

from keras_transformer.checks import UserError
from keras_transformer.compression.quantization import dense_ranges, plain, trained_form
from keras_transformer.export.learned_ranges import LearnedRange
from keras_transformer.export.lite_attention import attention_products
from keras_transformer.export.lite_graph import Code
from keras_transformer.export.lite_masks import with_capped_scores
from keras_transformer.export.lite_norms import with_short_norms
from keras_transformer.export.lite_runner import INPUT, SIGNATURE
from keras_transformer.export.lite_tables import with_shared_tables
from keras_transformer.export.preparation import Prepared
from keras_transformer.export.signatures import BareWeights, token_function

CALIBRATION_TEXTS, ATTENTION_TEXTS = 200, 50
"""Of the examples: for the ranges of all dense products, and for those of the attention alone. A text takes a while."""

INTEGERS = ("int8", "int16", "int4")  # those that `integer_forms` makes of every model
CONVOLUTIONS = {Code.CONV_2D, Code.CONV_3D, Code.DEPTHWISE_CONV_2D, Code.TRANSPOSE_CONV}
OTHER_WEIGHTS = CONVOLUTIONS | {Code.UNIDIRECTIONAL_SEQUENCE_LSTM}
"""What has int8 weights in "dynamic" by TensorFlow's converter, and not by `integer_forms`."""
INTEGER_ATTENTION = ("dynamic", "int8")
"""Forms in which a classifier's attention multiplies int8 numbers, with ranges from the examples."""

Calibration = Callable[[bytes], Iterator[tuple[str, dict[str, np.ndarray]]]]
"""Takes the float32 flatbuffer and gives pairs of a signature's name and inputs of it by name."""


def convert(prepared: Prepared, quantize: str) -> bytes:
    """Return the flatbuffer of a prepared model with the signature `tokens`, (1, T) ids -> (1, C) logits.

    One row and a free length: LiteRT then runs each text at its own length. That takes less time than padding to one
    length, and less memory than a signature for each of several lengths.

    Raises:
        UserError: if the model has an operator that LiteRT lacks.
    """
    model, learned = without_rounding(prepared.model)
    # A model that learned its ranges learned none for the attention.
    attention = quantize in INTEGER_ATTENTION and not learned
    texts = CALIBRATION_TEXTS if quantize in INTEGERS else ATTENTION_TEXTS
    return flatbuffer(
        model, _signatures(model, prepared), quantize, calibration(prepared, texts), learned, attention=attention
    )


def float_flatbuffer(prepared: Prepared) -> bytes:
    """Return the float32 flatbuffer of a prepared model that has no fake integers, with the signature of `convert`.

    Raises:
        UserError: if the model has an operator that LiteRT lacks.
    """
    return _converted(prepared.model, _signatures(prepared.model, prepared), "none")


def calibration(prepared: Prepared, texts: int) -> Calibration:
    """Return what asks the signature of `convert` for every second example, up to so many; the others prove ranges."""

    def inputs(_: bytes) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for row in prepared.token_ids[::2][:texts]:
            yield SIGNATURE, {INPUT: prepared.tokenizer.pad([row], prepared.fixed_length)}

    return inputs


def require_form(model: keras.Model, quantize: str) -> None:
    """Refuse a model with fake integers for a form that computes with other ones, or none.

    Raises:
        ValueError: if it was trained for another form.
    """
    form = trained_form(model)
    if form not in (None, quantize):
        raise ValueError(
            f"quantize={quantize!r}, but model {model.name!r} was trained for {form!r} and computes with its rounding. "
            f"Use quantize={form!r}, or export compression.plain(model)."
        )


def without_rounding(model: keras.Model) -> tuple[keras.Model, list[LearnedRange]]:
    """The model itself, or if it computes with fake integers a copy that doesn't, and the ranges that were learned.

    Raises:
        ValueError: if the ranges saw no batch yet.
    """
    if trained_form(model) is None:
        return model, []
    learned = [
        LearnedRange(name, ranges.kernel, ranges.input, ranges.output) for name, ranges in dense_ranges(model).items()
    ]
    return plain(model), learned


def flatbuffer(
    model: keras.Model,
    signatures: Mapping[str, Any],
    quantize: str,
    calibration: Calibration,
    learned: Sequence[LearnedRange] = (),
    *,
    attention: bool = False,
) -> bytes:
    """Return the flatbuffer with these signatures, concrete functions that read the model's weights.

    Args:
        model: whose weights go into the file.
        signatures: name -> concrete function. The first becomes the first graph of the file: of that alone LiteRT
            lends its memory to the caller.
        quantize: a key of `export.tflite.FORMATS`.
        calibration: what gives the inputs of a signature, one row at a time, out of the float32 flatbuffer; for those
            of `integer_forms.FORMS`.
        learned: ranges that the model was trained with, for those too.
        attention: True for int8 products in self-attention, where the model has such; for that the calibration is
            asked in whatever form.

    Raises:
        UserError: if a signature has an operator that LiteRT lacks.
    """
    if quantize not in INTEGERS and not attention:
        return _converted(model, signatures, quantize)
    exact = _converted(model, signatures, "none")
    attention = attention and bool(attention_products(exact).operators)
    if quantize not in INTEGERS and (not attention or _has_other_weights(exact)):
        return _converted(model, signatures, quantize)
    from keras_transformer.export.integer_forms import in_integers  # slow to import, and of no use to the others

    return in_integers(exact, quantize, calibration, learned=learned, attention=attention)


def _converted(model: keras.Model, signatures: Mapping[str, Any], quantize: str) -> bytes:
    """The flatbuffer as TensorFlow's converter makes it, with masks and norms as XNNPACK has them fast."""
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(BareWeights(model), folder, signatures=dict(signatures))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(signatures))
        if quantize in ("float16", "dynamic"):
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            made = converter.convert()
        except ConverterError as error:
            raise UserError(
                f"model {model.name!r} can't become a .tflite file: {_missing_operators(error)}. "
                "Write that part of the model with operators that LiteRT has."
            ) from error
    made = with_short_norms(with_capped_scores(_with_first_graph(made, next(iter(signatures)))))
    return with_shared_tables(made) if quantize == "dynamic" else made


def _has_other_weights(content: bytes) -> bool:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    return any({code.builtinCode, code.deprecatedBuiltinCode} & OTHER_WEIGHTS for code in model.operatorCodes)


def _with_first_graph(content: bytes, signature: str) -> bytes:
    """The flatbuffer with the graph of one signature in front; the converter sorts them by name."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    places = {one.signatureKey.decode(): one.subgraphIndex for one in model.signatureDefs}
    place, graphs = places[signature], model.subgraphs
    if place == 0:
        return content
    graphs[0], graphs[place] = graphs[place], graphs[0]
    for one in model.signatureDefs:
        one.subgraphIndex = {0: place, place: 0}.get(one.subgraphIndex, one.subgraphIndex)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _signatures(model: keras.Model, prepared: Prepared) -> dict[str, Any]:
    function = token_function(model, (1, prepared.fixed_length), limits=None)
    return {SIGNATURE: function.get_concrete_function()}


def _missing_operators(error: ConverterError) -> str:
    named = re.findall(r"^(?:Flex|Custom) ops: (.+)$", str(error), re.MULTILINE)
    return f"LiteRT has no {', '.join(named)}" if named else " ".join(str(error).split())[:300]
