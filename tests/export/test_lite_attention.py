"""The attention's products of a classifier are int8 where a form has them so, and in kernels of XNNPACK."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from two_products import plain

from keras_transformer import compression
from keras_transformer.export import tflite
from keras_transformer.export.lite_attention import attention_products, make_symmetric
from keras_transformer.export.lite_converter import INTEGER_ATTENTION
from keras_transformer.export.lite_operators import signature_operators
from keras_transformer.export.lite_runner import LiteRunner
from keras_transformer.layers import MultiHeadAttention
from keras_transformer.models import TextClassifier

LAYERS = 2
FLOAT, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8


def products(path):
    """Of each product of attention: types of both sides, and the zero point of the right one (None in float32)."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(Path(path).read_bytes(), 0))
    (graph,) = model.subgraphs
    found = []
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.BATCH_MATMUL:
            left, right = (graph.tensors[place] for place in operator.inputs)
            integer = right.quantization is not None and right.quantization.zeroPoint is not None
            found.append((left.type, right.type, int(right.quantization.zeroPoint[0]) if integer else None))
    return found


@pytest.mark.parametrize("form", INTEGER_ATTENTION)
def test_queries_keys_weights_and_values_are_int8_and_the_zero_of_the_right_side_is_0(lite, form):
    assert products(lite(form).path) == [(INT8, INT8, 0)] * 2 * LAYERS


@pytest.mark.parametrize("form", INTEGER_ATTENTION)
def test_xnnpack_takes_all_of_them(lite, form):
    (counted,) = signature_operators(lite(form).path)
    assert counted.taken["BATCH_MATMUL"] == counted.in_file["BATCH_MATMUL"] == 2 * LAYERS
    assert counted.taken["TRANSPOSE"] == counted.in_file["TRANSPOSE"] == 4 * LAYERS


@pytest.mark.parametrize("form", INTEGER_ATTENTION)
def test_the_kernels_of_a_phone_without_xnnpack_say_the_same(lite, form, examples, review_tokenizer, keras_logits):
    runners = [LiteRunner(lite(form).path, threads=1, xnnpack=xnnpack) for xnnpack in (True, False)]
    rows = [np.array([ids], np.int32) for ids in review_tokenizer.encode(examples[:41], 19)]
    fast, slow = (np.concatenate([runner(row) for row in rows]) for runner in runners)
    assert np.abs(fast - slow).max() < 0.1 * keras_logits.std()
    assert np.mean(slow.argmax(axis=1) == keras_logits[:41].argmax(axis=1)) > 0.97


@pytest.mark.parametrize("form", INTEGER_ATTENTION)
def test_padding_has_no_weight_in_integers_either(lite, form):
    runner = LiteRunner(lite(form).path, threads=1)
    text = [5, 9, 27, 3]
    np.testing.assert_array_equal(
        runner(np.array([[*text, 0, 0]], np.int32)), runner(np.array([[*text, 0, 0, 0, 0]], np.int32))
    )
    np.testing.assert_allclose(runner(np.array([[*text, 0]], np.int32)), runner(np.array([text], np.int32)), atol=1e-5)


@pytest.mark.parametrize("num_heads", [1, 3])
def test_any_number_of_heads_is_exported(num_heads, review_tokenizer, parts, tmp_path):
    """A single head is cut off by a reshape alone."""
    model = TextClassifier(review_tokenizer.vocab_size, 3, 1, 12, num_heads, 31, max_length=23, dropout=0.0)
    report = tflite(model, tmp_path / "heads.tflite", quantize="dynamic", min_agreement=0.5, **parts)
    assert products(report.path) == [(INT8, INT8, 0)] * 2


@pytest.mark.parametrize("form", ["none", "int4"])
def test_other_forms_multiply_float32(lite, form):
    assert products(lite(form).path) == [(FLOAT, FLOAT, None)] * 2 * LAYERS


def test_a_model_that_learned_ranges_of_its_dense_products_alone_keeps_float32(
    review_model, review_tokenizer, examples, parts, tmp_path
):
    learning = compression.quantization_aware(review_model, "int8", momentum=0.9)
    learning(review_tokenizer.pad(review_tokenizer.encode(examples, 19)), training=True)
    report = tflite(learning, tmp_path / "learned.tflite", quantize="int8", min_agreement=0.5, **parts)
    assert products(report.path) == [(FLOAT, FLOAT, None)] * 2 * LAYERS


@pytest.mark.parametrize("ends", [(-3.0, 1.0), (0.25, 2.0), (-7e-3, -1e-3), (0.0, 0.0)])
def test_a_symmetric_range_has_the_zero_point_0_and_reaches_as_far(ends):
    ranges = {"keys": {"min": np.array([[ends[0]]], np.float32), "max": np.array([[ends[1]]], np.float32)}, "x": {}}
    make_symmetric(ranges, ["keys"])
    low, high = (float(ranges["keys"][end].item()) for end in ("min", "max"))
    step = (high - low) / 255
    assert round(-128 - low / step) == 0
    assert 127 * step == pytest.approx(max(map(abs, ends)) or 1.0, rel=1e-6)
    assert ranges["x"] == {}


def test_where_nothing_attends_there_are_no_products():
    assert attention_products(plain()) == ({}, [])


def products_of(call):
    module = tf.Module()
    module.call = call
    content = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module).convert()
    return attention_products(content)


def test_a_product_of_two_dense_products_that_no_softmax_reads_stays():
    """Logits of a bilinear head: ranges of a few texts would cut off those of others."""
    kernels = [tf.constant(np.random.default_rng(seed).normal(size=(7, 5)), tf.float32) for seed in (1, 2)]

    @tf.function(input_signature=[tf.TensorSpec((3, 7), tf.float32, "x")], autograph=False)
    def call(x):
        left, right = (tf.expand_dims(x @ kernel, 0) for kernel in kernels)
        return {"y": tf.matmul(left, right, transpose_b=True) + 1.0}

    assert products_of(call) == ({}, [])


def test_a_model_with_convolutions_keeps_their_int8_weights(review_tokenizer, parts, tmp_path):
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(review_tokenizer.vocab_size, 32)(token_ids)
    x = keras.layers.Conv1D(48, 3, padding="same")(x)
    x = MultiHeadAttention(48, 2)(x, x).context
    model = keras.Model(token_ids, keras.layers.Dense(3)(keras.layers.GlobalMaxPooling1D()(x)))
    report = tflite(model, tmp_path / "convolved.tflite", quantize="dynamic", min_agreement=0.0, **parts)
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(Path(report.path).read_bytes(), 0))
    (kernel,) = [one for one in content.subgraphs[0].tensors if list(one.shape) == [48, 1, 3, 32]]
    assert kernel.type == INT8


def test_the_way_from_the_dense_products_is_named(lite):
    found = attention_products(Path(lite("none").path).read_bytes())
    counts = {kind: len(names) for kind, names in found.operators.items()}
    # Queries, keys, values and what is mixed are cut into heads or joined; the mask multiplies the values.
    assert counts == {"BATCH_MATMUL": 2 * LAYERS, "RESHAPE": 4 * LAYERS, "TRANSPOSE": 4 * LAYERS, "MUL": LAYERS}


def test_keys_and_values_of_a_cache_stay_out(lite_writer):
    """Of the four products in a step of a language model: two with the cache, and one with a column of the weights."""
    path = lite_writer("language-model").path
    products = sum(one.in_file["BATCH_MATMUL"] for one in signature_operators(path))
    assert len(attention_products(Path(path).read_bytes()).operators["BATCH_MATMUL"]) == products - 3
