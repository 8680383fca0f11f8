"""Fake integers against integers: loops in float64 that round, and the gradient that passes through the rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracles import dense
from weights import normal, randomise

from keras_transformer.layers import IntegerPolicy, LowRankDense, MultiHeadAttention, TokenEmbedding
from keras_transformer.layers.dense import Dense
from keras_transformer.layers.fake_quantization import (
    MovingRange,
    fake_quantize,
    fake_quantize_rows,
    fake_quantize_weights,
)
from keras_transformer.layers.integer_policy import policy_of_outputs

INPUTS, UNITS, ROWS = 7, 5, 11
STEP_AT_A_TIE = 1e-4  # of a range: float32 and float64 may round a number between two steps to either


def integers_of_weights(kernel, bits):
    """Symmetric integers (inputs, outputs) and a scale an output, by loops."""
    whole, scales = np.zeros(kernel.shape, int), np.zeros(kernel.shape[1])
    for channel in range(kernel.shape[1]):
        scales[channel] = max(abs(float(value)) for value in kernel[:, channel]) / (2 ** (bits - 1) - 1)
        for row in range(kernel.shape[0]):
            whole[row, channel] = round(float(kernel[row, channel]) / scales[channel])
    return whole, scales


def as_int8(value, low, high):
    """The int8 number of a float, and what it stands for: asymmetric, with zero on a step."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-128 - low / scale)
    whole = min(max(round(value / scale) + zero, -128), 127)
    return whole, scale * (whole - zero)


def as_int8_all(values, low, high):
    return np.array([as_int8(float(value), low, high)[1] for value in values.ravel()]).reshape(values.shape)


def gradient(function, x):
    watched = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        total = tf.reduce_sum(function(watched) * weights_of(x))
    return tape.gradient(total, watched).numpy() / weights_of(x)


def weights_of(x):
    """A different factor for each number, so that a gradient can't be right by being summed."""
    return (1.0 + np.arange(x.size, dtype="float32")).reshape(x.shape)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_those_of_their_integers_and_each_output_has_its_own_scale(bits):
    kernel = normal(INPUTS, UNITS, seed=2) * np.array([1.0, 0.01, 30.0, 1.0, 2.0], "float32")
    whole, scales = integers_of_weights(kernel, bits)
    assert np.abs(whole).max() == 2 ** (bits - 1) - 1
    np.testing.assert_allclose(fake_quantize_weights(kernel, bits), whole * scales, rtol=1e-5)


def test_weights_of_one_scale_are_measured_by_the_largest_of_all():
    table = np.array([[0.1, 127.0], [2.4, -3.6]], "float32")
    np.testing.assert_allclose(fake_quantize_weights(table, 8, axis=None), [[0.0, 127.0], [2.0, -4.0]], atol=1e-5)


def test_weights_that_are_all_zero_stay_zero():
    np.testing.assert_array_equal(fake_quantize_weights(np.zeros((3, 2), "float32"), 8), np.zeros((3, 2)))


def test_the_rounding_of_weights_has_the_gradient_of_the_identity():
    kernel = normal(INPUTS, UNITS, seed=2)
    np.testing.assert_allclose(gradient(lambda x: fake_quantize_weights(x, 4), kernel), np.ones_like(kernel))


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.1), (0.4, 3.0), (-5.0, -1.0), (0.0, 0.7)])
def test_activations_are_those_of_their_int8_numbers(low, high):
    """Ranges on either side of zero are widened to reach it, as integer kernels need."""
    x = np.random.default_rng(5).uniform(low - 2, high + 2, 397).astype("float32")
    got = ops.convert_to_numpy(fake_quantize(x, low, high))
    off = np.abs(got - as_int8_all(x, low, high)) > STEP_AT_A_TIE * (high - low)
    assert off.sum() <= 1
    assert float(fake_quantize(np.zeros(1, "float32"), low, high)[0]) == 0.0


def test_what_was_cut_off_has_no_gradient_and_the_rest_has_that_of_the_identity():
    x = np.array([-1.5, -1.0, 0.0, 0.31, 2.0, 2.6], "float32")  # the ends themselves aren't cut off
    got = gradient(lambda values: fake_quantize(values, -1.0, 2.0), x)
    np.testing.assert_allclose(got, [0, 1, 1, 1, 1, 0])


def test_each_row_has_a_range_of_its_own():
    x = normal(3, INPUTS, seed=4) * np.array([[1.0], [100.0], [0.001]], "float32")
    want = np.stack([as_int8_all(row, float(row.min()), float(row.max())) for row in x])
    np.testing.assert_allclose(fake_quantize_rows(x), want, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(gradient(fake_quantize_rows, x), np.ones_like(x))


def test_a_row_of_zeros_stays_so():
    np.testing.assert_array_equal(fake_quantize_rows(np.zeros((2, 3), "float32")), np.zeros((2, 3)))


def test_a_range_begins_with_the_first_batch_and_follows_the_next_ones():
    moving, low, high = MovingRange(momentum=0.75), -2.0, 3.0
    moving(np.array([low, high], "float32"), training=True)
    assert (float(moving.low), float(moving.high)) == (low, high)
    for least, most in [(-4.0, 1.0), (0.0, 7.0)]:
        moving(np.array([least, 0.5, most], "float32"), training=True)
        low, high = 0.75 * low + 0.25 * least, 0.75 * high + 0.25 * most
    assert (float(moving.low), float(moving.high)) == (low, high)
    moving(np.array([-99.0, 99.0], "float32"))
    assert (float(moving.low), float(moving.high)) == (low, high)
    np.testing.assert_allclose(moving(np.array([99.0], "float32")), [as_int8(99.0, low, high)[1]], rtol=1e-6)


def test_before_the_first_batch_nothing_is_rounded():
    x = normal(3, 2)
    np.testing.assert_array_equal(MovingRange()(x), x)


def test_a_range_has_weights_that_are_saved_but_not_trained():
    moving = MovingRange()
    moving.build(())
    assert [weight.name for weight in moving.non_trainable_weights] == ["low", "high", "seen"]
    assert moving.trainable_weights == []


def rounded_dense(x, layer, bits):
    """The product by loops over integers, before input and output ranges."""
    whole, scales = integers_of_weights(np.array(layer.kernel), bits)
    return dense(x, whole * scales, np.array(layer.bias, "float64"))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_dense_product_with_rows_is_that_of_the_integers(bits):
    layer = Dense(UNITS, dtype=IntegerPolicy(bits, "rows"))
    x = normal(ROWS, INPUTS)
    layer.build(x.shape)
    randomise(layer)
    taken = np.stack([as_int8_all(row, float(row.min()), float(row.max())) for row in x])
    np.testing.assert_allclose(layer(x), rounded_dense(taken, layer, bits), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "fused"),
    [("linear", lambda x: x), ("relu", lambda x: np.maximum(x, 0)), ("tanh", None)],
    ids=["linear", "relu", "tanh"],
)
def test_a_dense_product_with_ranges_rounds_what_goes_in_and_what_the_kernel_gives(activation, fused):
    """A kernel applies relu itself; tanh comes after it, in float32."""
    layer = Dense(UNITS, activation=activation, dtype=IntegerPolicy())
    x = normal(ROWS, INPUTS)
    layer.build(x.shape)
    randomise(layer)
    for weight in layer.input_range.weights + layer.output_range.weights:
        weight.assign(0.0)
    got = ops.convert_to_numpy(layer(x, training=True))
    product = rounded_dense(as_int8_all(x, float(x.min()), float(x.max())), layer, 8)
    given = product if fused is None else fused(product)
    want = as_int8_all(given, float(given.min()), float(given.max()))
    step = (max(given.max(), 0) - min(given.min(), 0)) / 255
    want = np.tanh(want) if fused is None else want
    assert np.abs(got - want).max() < 1.01 * step  # a tie may fall to either side
    assert (np.abs(got - want) > 0.01 * step).mean() < 0.05


@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_in_two_factors_rounds_each_and_what_lies_between(bits):
    layer = LowRankDense(UNITS, 3, dtype=IntegerPolicy(bits, "rows"))
    x = normal(ROWS, INPUTS)
    layer.build(x.shape)
    randomise(layer)
    want = x
    for half in (layer.left, layer.right):
        whole, scales = integers_of_weights(np.array(half.kernel), bits)
        taken = np.stack([as_int8_all(row, float(row.min()), float(row.max())) for row in want])
        want = dense(taken, whole * scales, np.zeros(scales.shape))
    np.testing.assert_allclose(layer(x), want + np.array(layer.bias), rtol=1e-3, atol=1e-4)


def test_both_factors_have_ranges_that_follow_the_batches():
    layer, x = LowRankDense(UNITS, 3, dtype=IntegerPolicy()), normal(ROWS, INPUTS)
    layer(x, training=True)
    assert [weight.name for weight in layer.trainable_weights] == ["kernel", "kernel", "bias"]
    ends = [(float(one.low), float(one.high)) for one in (layer.left.input_range, layer.right.input_range)]
    middle = x @ layer.left.kernel.numpy()
    for (low, high), values in zip(ends, (x, middle), strict=True):
        np.testing.assert_allclose((low, high), (values.min(), values.max()), atol=0.03)
    assert len(layer.non_trainable_weights) == 4 * 3


def test_a_dense_layer_without_the_policy_is_that_of_keras():
    ours, theirs, x = Dense(UNITS, activation="gelu"), keras.layers.Dense(UNITS, activation="gelu"), normal(3, INPUTS)
    ours.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(randomise(ours).get_weights())
    np.testing.assert_array_equal(ours(x), theirs(x))
    assert len(ours.weights) == 2


def test_the_rows_of_a_table_have_one_scale():
    layer = TokenEmbedding(13, 3, dtype=IntegerPolicy())
    layer.build((1, 4))
    randomise(layer)
    table, ids = np.array(layer.table), np.array([[3, 12, 0, 3]])
    want = as_int8_all(table[ids], float(table.min()), float(table.max()))
    np.testing.assert_allclose(layer(ids), want, rtol=1e-5, atol=1e-6)


def test_the_attentions_products_take_integers_where_they_are_asked_for():
    x = normal(2, 3, 8)
    plain, asked = (
        MultiHeadAttention(8, 2, dtype=IntegerPolicy(8, "rows", attention_products=asked)) for asked in (False, True)
    )
    plain.build(x.shape, x.shape)
    asked.build(x.shape, x.shape)
    assert [one.name for one in asked.product_ranges] == ["query_range", "key_range", "value_range", "weight_range"]
    assert len(asked.weights) == len(plain.weights) + 12
    for ours, theirs in zip([one for one in asked.weights if "_range/" not in one.path], plain.weights, strict=True):
        ours.assign(theirs)
    asked(x, x, training=True)
    query = np.array(plain.project_query(x))
    assert float(asked.product_ranges[0].high) == pytest.approx(float(query.max()), rel=1e-6)
    assert float(asked.product_ranges[3].high) <= 1.0
    changed = np.abs(np.array(asked(x, x).context) - np.array(plain(x, x).context)).max()
    assert 0.0 < changed < 0.05


def test_a_policy_computes_in_float32_and_comes_back_from_its_config():
    policy = IntegerPolicy(4, "rows", 0.5, True)
    assert (policy.compute_dtype, policy.variable_dtype, policy.quantization_mode) == ("float32", "float32", None)
    again = keras.dtype_policies.get(keras.saving.serialize_keras_object(policy))
    assert again == policy
    assert hash(again) == hash(policy)
    assert again != IntegerPolicy(4, "rows", 0.5, False)


def test_the_product_that_gives_logits_has_weights_of_eight_bits_and_rows():
    assert policy_of_outputs(IntegerPolicy(4, "rows")) == IntegerPolicy(8, "rows")
    assert policy_of_outputs(keras.DTypePolicy("mixed_bfloat16")) == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_bits": 3}, r"weight_bits=3 is no width that kernels have. Use 8, or 4 for smaller files"),
        ({"activations": "row"}, r"activations='row' must be one of .*Did you mean activations='rows'"),
        ({"momentum": 1.0}, r"momentum=1.0 must be at least 0 and below 1"),
    ],
)
def test_what_no_kernel_has_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        IntegerPolicy(**arguments)
