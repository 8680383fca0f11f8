import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from keras import ops
from weights import normal, randomise

from keras_transformer.layers import LearnedPositions, PositionalEncoding, sinusoidal_positions


def oracle_table(positions, width):
    return np.stack([oracles.sinusoidal_position(position, width) for position in positions])


@pytest.mark.parametrize(("length", "width"), [(1, 1), (7, 1), (11, 2), (13, 3), (5, 8), (3, 17)])
def test_the_table_matches_the_loop_oracle(length, width):
    table = np.asarray(sinusoidal_positions(length, width))
    assert table.shape == (length, width)
    np.testing.assert_allclose(table, oracle_table(range(length), width), atol=2e-6)


def test_the_first_row_is_zeros_and_ones_in_turn():
    np.testing.assert_array_equal(sinusoidal_positions(1, 5)[0], [0, 1, 0, 1, 0])


def test_positions_in_the_thousands_match_the_loop_oracle():
    table = np.asarray(sinusoidal_positions(5003, 13))
    chosen = [0, 1, 511, 512, 2999, 5002]
    # An angle of 5,000 has steps of 5e-4 in float32.
    np.testing.assert_allclose(table[chosen], oracle_table(chosen, 13), atol=5e-4)


def test_an_offset_continues_the_table():
    whole = np.asarray(sinusoidal_positions(19, 7))
    np.testing.assert_allclose(sinusoidal_positions(8, 7, start=11), whole[11:], atol=1e-6)
    np.testing.assert_allclose(sinusoidal_positions(1, 7, start=np.int32(18)), whole[18:], atol=1e-6)


def test_each_row_may_have_an_offset_of_its_own():
    starts = np.array([0, 5, 2])
    table = np.asarray(sinusoidal_positions(3, 7, start=starts))
    assert table.shape == (3, 3, 7)
    for row, start in zip(table, starts, strict=True):
        np.testing.assert_allclose(row, oracle_table(range(start, start + 3), 7), atol=2e-6)


def test_the_product_of_two_positions_depends_on_their_distance_alone():
    table = np.asarray(sinusoidal_positions(41, 14), "float64")
    for distance in (0, 1, 7):
        products = [table[m] @ table[m + distance] for m in range(41 - distance)]
        np.testing.assert_allclose(products, products[0], atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_angles_are_float32_whatever_the_dtype(dtype):
    table = sinusoidal_positions(300, 6, dtype)
    assert keras.backend.standardize_dtype(table.dtype) == dtype
    rounded = ops.cast(ops.cast(oracle_table(range(300), 6).astype("float32"), dtype), "float64")
    np.testing.assert_allclose(ops.cast(table, "float64"), rounded, atol=8e-3 if dtype == "bfloat16" else 1e-3)
    assert np.any(np.asarray(ops.cast(table[256] != table[257], "bool")))


def test_a_width_below_one_is_refused():
    with pytest.raises(ValueError, match="model_dim=0 must be a whole number of at least 1"):
        sinusoidal_positions(3, 0)


@pytest.mark.parametrize("start", [0, 4, np.array([0, 9, 4])])
def test_the_encoding_is_added_from_the_start_on(start):
    x = normal(3, 5, 7)
    starts = np.broadcast_to(start, 3)
    want = x + np.stack([oracle_table(range(s, s + 5), 7) for s in starts])
    np.testing.assert_allclose(PositionalEncoding()(x, start=start), want, atol=2e-6)


def test_steps_with_offsets_equal_the_whole_sequence():
    layer, x = PositionalEncoding(), normal(2, 7, 5)
    steps = [np.asarray(layer(x[:, t : t + 1], start=t)) for t in range(7)]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), layer(x), atol=1e-6)


def test_the_encoding_takes_a_length_known_only_while_the_graph_runs():
    layer, x = PositionalEncoding(), normal(2, 7, 5)
    want = np.asarray(layer(x))
    inputs = keras.Input((None, 5))
    np.testing.assert_allclose(keras.Model(inputs, layer(inputs))(x), want, atol=1e-6)
    for jit_compile in (False, True):
        run = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 5))], jit_compile=jit_compile)
        np.testing.assert_allclose(run(x), want, atol=1e-6)


def learned(max_length=7, **options):
    layer = LearnedPositions(max_length, **options)
    layer.build((None, None, 5))
    return randomise(layer)


@pytest.mark.parametrize(("length", "start"), [(1, 0), (7, 0), (3, 4), (1, 6), (2, 1)])
def test_learned_rows_are_added_from_the_start_on(length, start):
    layer, x = learned(), normal(3, length, 5)
    table = layer.table.numpy()
    want = np.stack([[x[b, t] + table[start + t] for t in range(length)] for b in range(3)])
    np.testing.assert_allclose(layer(x, start=start), want, atol=1e-6)


def test_each_row_may_start_at_a_learned_row_of_its_own():
    layer, x, starts = learned(), normal(3, 2, 5), np.array([0, 5, 2], "int32")
    table = layer.table.numpy()
    want = x + np.stack([table[start : start + 2] for start in starts])
    in_graph = tf.function(lambda x, start: layer(x, start=start))
    for run in (layer, in_graph):
        np.testing.assert_allclose(run(x, start=starts), want, atol=1e-6)
    np.testing.assert_allclose(in_graph(x[:1], tf.constant(5)), want[1:2] - x[1:2] + x[:1], atol=1e-6)


def test_a_row_that_starts_beyond_the_table_is_refused():
    layer = learned()
    run = tf.function(lambda x, start: layer(x, start=start))
    for call in (layer, run):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"indices\[1,1\] = 7 is not in \[0, 7\)"):
            call(normal(2, 2, 5), start=tf.constant([0, 6]))


def test_the_whole_table_is_not_cast_to_add_a_few_rows():
    layer = learned(dtype="mixed_bfloat16")
    for start in (2, tf.constant([0, 2])):
        graph = tf.function(layer).get_concrete_function(tf.TensorSpec((2, 3, 5), tf.bfloat16), start=start).graph
        cast = [node.inputs[0].shape.as_list() for node in graph.get_operations() if node.type == "Cast"]
        assert [7, 5] not in cast


def test_more_positions_than_rows_are_refused_with_the_length_that_fits():
    message = r"8 positions from 0 on don't fit a table of max_length=7\. Shorten the input to 7 .* max_length=8"
    with pytest.raises(ValueError, match=message):
        learned()(normal(2, 8, 5))
    with pytest.raises(ValueError, match=r"5 positions from 3 on .* Shorten the input to 4 .* max_length=8"):
        learned()(normal(2, 5, 5), start=3)
    with pytest.raises(ValueError, match=r"1 positions from 9 on .* Shorten the input to 0 .* max_length=10"):
        learned()(normal(2, 1, 5), start=9)


def test_a_start_before_the_table_is_refused():
    with pytest.raises(ValueError, match="start=-1 must be at least 0"):
        learned()(normal(2, 1, 5), start=-1)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("max_length", "start", "length"),
    [(7, 0, 8), (1, 0, 5), (7, 6, 5), (7, 9, 1)],  # in all but the first a clipped slice would still broadcast
)
def test_a_length_known_only_while_the_graph_runs_is_never_clamped(max_length, start, length, jit_compile):
    layer = learned(max_length)
    spec = tf.TensorSpec((None, None, 5))
    run = tf.function(lambda x: layer(x, start=start), input_signature=[spec], jit_compile=jit_compile)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Expected (size|begin)\[0\]"):
        run(normal(2, length, 5))


def test_only_the_rows_used_are_learned():
    layer, x = learned(), normal(2, 3, 5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, start=2))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.table))
    np.testing.assert_array_equal(gradient[:, 0], [0, 0, 2, 2, 2, 0, 0])


def test_a_table_without_rows_is_refused():
    with pytest.raises(ValueError, match="max_length=0 must be a whole number of at least 1"):
        LearnedPositions(0)
