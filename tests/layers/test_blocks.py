"""Attention in blocks: the numbers of all scores at once, gradients too, whatever the blocks; and its memory."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer import layers
from keras_transformer.layers.attention import attention_weights
from keras_transformer.layers.blocks import PLAIN_SCORES, WeightDropout, attention_in_blocks, in_blocks
from keras_transformer.layers.cache import KeyValues
from keras_transformer.layers.linear_biases import alibi_biases
from keras_transformer.layers.scores import weighted_values

BATCH, HEADS, GROUPS, QUERIES, KEYS, WIDTH = 2, 6, 3, 11, 13, 5


def drawn(*shape, seed=1, scale=2.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype("float32")


@pytest.fixture
def parts():
    query = drawn(BATCH, HEADS, QUERIES, WIDTH, seed=1)
    return query, drawn(BATCH, GROUPS, KEYS, WIDTH, seed=2), drawn(BATCH, GROUPS, KEYS, WIDTH, seed=3)


def loop(query, key, value, allowed, bias):
    """A float64 loop over rows; a query without a key gives 0."""
    query, key, value = (np.asarray(x, "float64") for x in (query, key, value))
    batch, heads, queries, width = query.shape
    out = np.zeros_like(query)
    for b, h, t in np.ndindex(batch, heads, queries):
        group = h // (heads // key.shape[1])
        seen = [s for s in range(key.shape[2]) if allowed[b, h, t, s]]
        scores = [query[b, h, t] @ key[b, group, s] / np.sqrt(width) + bias[h, t, s] for s in seen]
        weights = np.exp(np.array(scores) - max(scores, default=0.0))
        for s, weight in zip(seen, weights / (weights.sum() or 1.0), strict=True):
            out[b, h, t] += weight * value[b, group, s]
    return out


def masks(kind):
    """Of (BATCH, 1 or HEADS, QUERIES, KEYS), or what broadcasts to it."""
    random = np.random.default_rng(5)
    if kind == "keys":
        return np.arange(KEYS)[None, None, None] < np.array([7, KEYS])[:, None, None, None]
    if kind == "pairs":
        mask = random.random((BATCH, 1, QUERIES, KEYS)) < 0.5
        mask[1, :, 4] = False  # a query that sees nothing
        return mask
    if kind == "rows":
        return np.arange(QUERIES)[None, None, :, None] != np.array([2, 3])[:, None, None, None]
    return None


@pytest.mark.parametrize("block_size", [1, 3, 5, KEYS, 64])
@pytest.mark.parametrize("mask", [None, "keys", "pairs", "rows"])
def test_a_block_of_any_size_gives_what_a_float64_loop_gives(parts, mask, block_size):
    query, key, value = parts
    given = masks(mask)
    allowed = np.broadcast_to(True if given is None else given, (BATCH, HEADS, QUERIES, KEYS))
    found = attention_in_blocks(query, KeyValues(key, value), given, block_size=block_size)
    wanted = loop(query, key, value, allowed, np.zeros((HEADS, QUERIES, KEYS)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("linear_biases", [False, True])
def test_causal_blocks_and_linear_biases_are_those_of_the_loop(linear_biases):
    query = drawn(BATCH, HEADS, KEYS, WIDTH, seed=1)
    key, value = drawn(BATCH, GROUPS, KEYS, WIDTH, seed=2), drawn(BATCH, GROUPS, KEYS, WIDTH, seed=3)
    allowed = np.broadcast_to(np.tril(np.ones((KEYS, KEYS), bool)), (BATCH, HEADS, KEYS, KEYS))
    bias = np.zeros((HEADS, KEYS, KEYS))
    if linear_biases:
        bias = np.broadcast_to(np.asarray(alibi_biases(HEADS, KEYS, KEYS), "float64"), (1, *bias.shape))[0]
    found = attention_in_blocks(query, KeyValues(key, value), block_size=4, causal=True, linear_biases=linear_biases)
    np.testing.assert_allclose(found, loop(query, key, value, allowed, bias), atol=1e-5)


@pytest.mark.parametrize("mask", [None, "keys", "pairs", "rows"])
@pytest.mark.parametrize("jit", [False, True])
def test_gradients_are_those_of_all_scores_at_once(parts, mask, jit):
    given, upstream = masks(mask), drawn(BATCH, HEADS, QUERIES, WIDTH, seed=7)
    tensors = [tf.constant(part) for part in parts]

    def plain(query, key, value):
        weights = attention_weights(query, key, given, None)
        return weighted_values(weights, value)

    def blocks(query, key, value):
        return attention_in_blocks(query, KeyValues(key, value), given, block_size=4)

    def gradients(attend):
        @tf.function(jit_compile=jit)
        def run(*values):
            with tf.GradientTape() as tape:
                tape.watch(values)
                loss = tf.reduce_sum(attend(*values) * upstream)
            return tape.gradient(loss, values)

        return run(*tensors)

    for found, wanted in zip(gradients(blocks), gradients(plain), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_what_is_hidden_changes_nothing_and_gets_no_gradient(parts):
    query, key, value = parts
    mask = masks("keys")
    junk = np.where(np.arange(KEYS)[:, None] < 7, 0.0, 1e4).astype("float32")
    spoilt = [part + junk * np.array([1.0, 0.0], "float32")[:, None, None, None] for part in (key, value)]
    outputs = []
    for keys, values in ((key, value), spoilt):
        keys, values = tf.constant(keys), tf.constant(values)
        with tf.GradientTape() as tape:
            tape.watch((keys, values))
            context = attention_in_blocks(query, KeyValues(keys, values), mask, block_size=4)
        outputs.append((context, *tape.gradient(context, (keys, values))))
    for before, after in zip(*outputs, strict=True):
        np.testing.assert_allclose(before, after, atol=1e-5)
    for gradient in outputs[1][1:]:
        np.testing.assert_array_equal(gradient[0, :, 7:], 0.0)


def test_dropout_drops_the_same_for_the_gradients(parts):
    query, key, value = (tf.constant(part) for part in parts)
    generator = keras.random.SeedGenerator(3)
    seed = generator.next()

    def attend(*tensors):
        dropout = WeightDropout(0.4, generator, seed)
        return attention_in_blocks(tensors[0], KeyValues(*tensors[1:]), block_size=4, dropout=dropout)

    # With the weights fixed by a large margin the output is linear in the values: its gradient tells what was dropped.
    with tf.GradientTape() as tape:
        tape.watch(value)
        found = attend(query, key, value)
        total = tf.reduce_sum(found)
    gradient = tape.gradient(total, value)
    np.testing.assert_allclose(float(total), float(tf.reduce_sum(gradient * value)), rtol=1e-4)
    np.testing.assert_array_equal(attend(query, key, value), found)
    ones = np.ones_like(value)
    kept = attention_in_blocks(query, KeyValues(key, ones), block_size=4, dropout=WeightDropout(0.4, generator, seed))
    assert 0.7 < float(np.mean(kept)) < 1.3
    assert float(np.std(kept)) > 0.1


def test_half_floats_stay_finite_and_near(parts):
    parts = [part / 4.0 for part in parts]  # weights of several keys count
    exact = attention_in_blocks(*_cast(parts, "float32"), masks("pairs"), block_size=4)
    for dtype, tolerance in (("bfloat16", 2e-2), ("float16", 2e-3)):
        found = attention_in_blocks(*_cast(parts, dtype), masks("pairs"), block_size=4)
        assert keras.backend.standardize_dtype(found.dtype) == dtype
        np.testing.assert_allclose(ops.cast(found, "float32"), exact, atol=tolerance)
    huge = [part * 800.0 for part in parts]
    assert np.isfinite(attention_in_blocks(*_cast(huge, "float16"), block_size=4)).all()


def _cast(parts, dtype):
    query, key, value = (ops.cast(part, dtype) for part in parts)
    return query, KeyValues(key, value)


def test_short_or_unknown_lengths_go_at_once():
    assert not in_blocks(1024, 1024, None)
    assert in_blocks(1024, PLAIN_SCORES // 1024 + 1, None)
    assert not in_blocks(None, 5000, None)
    assert not in_blocks(5000, None, 3)
    assert in_blocks(7, 4, 3)
    assert not in_blocks(7, 3, 3)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_stack_gives_the_same_in_blocks_recomputed_or_not(kind, norm_first):
    x = drawn(3, KEYS, 10, scale=1.0)
    mask = np.arange(KEYS) < np.array([[KEYS], [7], [5]])
    options = {"num_layers": 2, "model_dim": 10, "num_heads": 2, "inner_dim": 7, "dropout": 0.0}

    def trained(**more):
        keras.utils.set_random_seed(2)
        stack = (layers.Encoder if kind == "encoder" else layers.Decoder)(**options, norm_first=norm_first, **more)
        causal = {} if kind == "encoder" else {"causal": True}
        tensor = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            out = stack(tensor, attention_mask=mask, training=True, **causal)
            loss = tf.reduce_sum(tf.square(out) * mask[..., None])
        return [out * mask[..., None], *tape.gradient(loss, [tensor, *stack.trainable_variables])]

    whole = trained()
    for changes in ({"block_size": 4}, {"recompute_layers": True}, {"block_size": 3, "recompute_layers": True}):
        for found, wanted in zip(trained(**changes), whole, strict=True):
            np.testing.assert_allclose(found, wanted, atol=5e-5, rtol=1e-5)


def test_a_recomputed_layer_drops_what_it_dropped():
    x = drawn(2, 7, 10, scale=1.0)

    def run(recompute_layers):
        keras.utils.set_random_seed(2)
        stack = layers.Encoder(2, 10, 2, 7, dropout=0.5, recompute_layers=recompute_layers)
        gradients = []
        for _ in range(2):  # the second call must draw other numbers than the first
            with tf.GradientTape() as tape:
                # Squares alone would do for any dropout: those of a norm's output always add up to the same.
                loss = tf.reduce_sum(tf.square(stack(tf.constant(x), training=True) - x))
            gradients.append([loss, *tape.gradient(loss, stack.trainable_variables)])
        return gradients

    plain, again = run(False), run(True)
    for first, second in zip(plain, again, strict=True):
        for found, wanted in zip(second, first, strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=1e-4)
    assert abs(float(again[0][0]) - float(again[1][0])) > 1e-3


def test_blocks_hold_no_square_of_the_length():
    length = 2048
    attention = layers.MultiHeadAttention(8, 2)
    attention.build((1, length, 8), (1, length, 8))

    @tf.function(input_signature=[tf.TensorSpec((1, length, 8))])
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(attention(x, x, with_weights=False).context ** 2)
        return tape.gradient(loss, x)

    def sizes(graph):
        found = [output.shape.num_elements() or 0 for node in graph.get_operations() for output in node.outputs]
        return max(found)

    graph = step.get_concrete_function().graph
    bodies = [graph, *(function.graph for function in _functions(graph))]
    assert max(sizes(one) for one in bodies) <= 2 * length * 256
    found = step(tf.constant(drawn(1, length, 8, scale=1.0)))
    assert np.isfinite(found).all()


def _functions(graph):
    return [graph._functions[name] for name in graph._functions] if hasattr(graph, "_functions") else []


def test_recomputing_refuses_moving_ranges():
    from keras_transformer.layers.integer_policy import IntegerPolicy

    with pytest.raises(ValueError, match="recompute_layers=True runs each layer twice"):
        layers.Encoder(1, 10, 2, 7, recompute_layers=True, dtype=IntegerPolicy(8))
