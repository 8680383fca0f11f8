import decoder_oracles
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from keras import ops
from weights import by_name, normal, randomise

from keras_transformer.layers import MultiHeadAttention, attention_weights, causal_mask
from keras_transformer.layers.attention import divisors

BATCH, HEADS, WIDTH = 2, 3, 5  # of attention_weights' own inputs


def random_mask(queries, keys, seed=7):
    """Bool (B, 1, T, S) with a row that allows no key and one that allows all."""
    mask = np.random.default_rng(seed).random((BATCH, 1, queries, keys)) < 0.5
    mask[0, 0, 0], mask[1, 0, -1] = False, True
    return mask


def query_and_key(queries, keys, dtype="float32"):
    return (
        normal(BATCH, HEADS, queries, WIDTH, seed=1).astype(dtype),
        normal(BATCH, HEADS, keys, WIDTH, seed=2).astype(dtype),
    )


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 11), (11, 7), (1, 13)])
def test_weights_match_the_loop_oracle(queries, keys):
    q, k = query_and_key(queries, keys)
    mask = random_mask(queries, keys)
    want = oracles.attention_weights(q.astype("float64"), k.astype("float64"), mask)
    np.testing.assert_allclose(attention_weights(q, k, mask), want, atol=1e-6)


def test_weights_without_a_mask_match_the_loop_oracle():
    q, k = query_and_key(7, 11)
    want = oracles.attention_weights(q.astype("float64"), k.astype("float64"))
    np.testing.assert_allclose(attention_weights(q, k), want, atol=1e-6)


def test_a_lone_key_gets_all_the_weight_and_a_gradient_of_zero():
    inputs = [tf.constant(x) for x in query_and_key(7, 1)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        weights = attention_weights(*inputs)
    np.testing.assert_array_equal(weights, np.ones((BATCH, HEADS, 7, 1)))
    for gradient in tape.gradient(weights, inputs):  # None would make the optimizer warn
        assert np.all(np.asarray(gradient) == 0)


def test_a_mask_may_differ_from_head_to_head():
    q, k = query_and_key(7, 11)
    mask = np.random.default_rng(5).random((BATCH, HEADS, 7, 11)) < 0.5
    want = oracles.attention_weights(q.astype("float64"), k.astype("float64"), mask)
    np.testing.assert_allclose(attention_weights(q, k, mask), want, atol=1e-6)


def test_rows_sum_to_one_over_allowed_keys_and_to_zero_where_there_is_none():
    q, k = query_and_key(7, 11)
    mask = random_mask(7, 11)
    weights = np.asarray(attention_weights(q, k, mask))
    np.testing.assert_allclose(weights.sum(-1), np.broadcast_to(mask.any(-1), (BATCH, HEADS, 7)), atol=1e-6)
    assert np.all(weights[~np.broadcast_to(mask, weights.shape)] == 0)


def test_masks_over_keys_pairs_and_heads_that_mean_the_same_agree():
    q, k = query_and_key(7, 11)
    keys = np.random.default_rng(5).random((BATCH, 11)) < 0.5
    pairs = np.broadcast_to(keys[:, None], (BATCH, 7, 11))
    want = np.asarray(attention_weights(q, k, keys))
    for mask in (pairs, keys[:, None], pairs[:, None], np.broadcast_to(pairs[:, None], (BATCH, HEADS, 7, 11))):
        np.testing.assert_array_equal(attention_weights(q, k, mask), want)


@pytest.mark.parametrize("wild", [1e3, 1e30, -1e30, 3e38, np.inf, -np.inf, np.nan])
def test_what_stands_behind_a_mask_cannot_leak(wild):
    q, k = query_and_key(7, 11)
    q = np.abs(q) + 0.1  # so that a row of infinities gives an infinite score, not NaN
    allowed = np.arange(11) < 6
    changed = k.copy()
    changed[:, :, 6:] = wild
    mask = np.broadcast_to(allowed, (BATCH, 11))
    np.testing.assert_array_equal(attention_weights(q, changed, mask), attention_weights(q, k, mask))


@pytest.mark.parametrize("score", [-100.0, -1e4, -1e30])
def test_rows_sum_to_one_however_low_the_allowed_scores(score):
    q, k = np.ones((1, 1, 3, 1), "float32"), np.full((1, 1, 7, 1), score, "float32")
    weights = attention_weights(q, k, np.array([[1, 0, 1, 0, 0, 1, 0]], bool))
    np.testing.assert_allclose(weights[0, 0, 1], np.array([1, 0, 1, 0, 0, 1, 0]) / 3, atol=1e-6)


@pytest.mark.parametrize("wild", [1e30, -3e38, np.inf, -np.inf])
def test_a_row_without_a_key_is_zero_however_wild_its_scores(wild):
    q, k = np.ones((1, 2, 3, 5), "float32"), np.full((1, 2, 7, 5), wild, "float32")
    np.testing.assert_array_equal(attention_weights(q, k, np.zeros((1, 7), bool)), np.zeros((1, 2, 3, 7)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_of_sixty_thousand_are_finite_and_pick_the_largest(dtype, sign):
    q = ops.cast(np.full((1, 1, 1, 4), 200.0), dtype)
    k = ops.cast(np.stack([np.full(4, sign * value) for value in (150.0, 149.0, 50.0)])[None, None], dtype)
    weights = np.asarray(ops.cast(attention_weights(q, k), "float32"))
    np.testing.assert_array_equal(weights[0, 0, 0], [1, 0, 0] if sign > 0 else [0, 0, 1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_scores_that_overflow_give_finite_weights_and_gradients(dtype):
    q = tf.cast(np.full((1, 1, 2, 4), 3e4), dtype)
    k = tf.cast(np.stack([np.full(4, 3e4), np.full(4, -3e4), np.zeros(4)])[None, None], dtype)
    with tf.GradientTape() as tape:
        tape.watch([q, k])
        weights = attention_weights(q, k, np.array([[[1, 1, 1], [0, 1, 0]]], bool))
        loss = tf.reduce_sum(tf.cast(weights, "float32") * np.arange(3, dtype="float32"))
    np.testing.assert_array_equal(tf.cast(weights, "float32")[0, 0], [[1, 0, 0], [0, 1, 0]])
    for gradient in tape.gradient(loss, [q, k]):
        assert np.all(np.isfinite(tf.cast(gradient, "float32")))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_gradient_through_a_row_without_a_key_is_zero(dtype):
    q, k = (tf.cast(x, dtype) for x in query_and_key(7, 11))
    mask = np.ones((BATCH, 7, 11), bool)
    mask[0, 2], mask[1] = False, False
    with tf.GradientTape() as tape:
        tape.watch([q, k])
        weights = attention_weights(q, k, mask)
        loss = tf.reduce_sum(tf.cast(weights, "float32") ** 2)
    of_query, of_key = (np.asarray(tf.cast(g, "float32")) for g in tape.gradient(loss, [q, k]))
    assert np.all(np.isfinite(of_query))
    assert np.all(of_query[0, :, 2] == 0)
    assert np.any(of_query[0, :, 3] != 0)
    assert np.all(of_query[1] == 0)
    assert np.all(of_key[1] == 0)


def test_the_gradient_matches_differences_of_the_oracle():
    q, k = query_and_key(3, 5)
    mask, pull = random_mask(3, 5), np.random.default_rng(4).normal(size=(BATCH, HEADS, 3, 5))
    inputs = [tf.constant(q), tf.constant(k)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(attention_weights(*inputs, mask) * pull.astype("float32"))
    got = tape.gradient(loss, inputs)
    exact = [q.astype("float64"), k.astype("float64")]
    for side, place in ((0, (1, 2, 1, 3)), (0, (0, 1, 2, 4)), (1, (1, 0, 4, 2)), (1, (0, 2, 3, 0))):
        ends = []
        for step in (1e-5, -1e-5):
            moved = [x.copy() for x in exact]
            moved[side][place] += step
            ends.append(np.sum(oracles.attention_weights(*moved, mask) * pull))
        np.testing.assert_allclose(got[side][place], (ends[0] - ends[1]) / 2e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_come_from_a_float32_softmax(dtype):
    q, k = query_and_key(7, 257)  # so many keys that a half-precision sum would stop growing
    weights = attention_weights(ops.cast(q, dtype), ops.cast(k, dtype))
    assert keras.backend.standardize_dtype(weights.dtype) == dtype
    np.testing.assert_allclose(np.asarray(ops.cast(weights, "float32")).sum(-1), 1, atol=4e-3)


@pytest.mark.parametrize("head_dim", [None, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_self_attention_matches_the_loop_oracle(masked, head_dim):
    layer = MultiHeadAttention(14, 2, head_dim=head_dim)
    x = normal(3, 5, 11)
    mask = np.random.default_rng(3).random((3, 1, 5, 5)) < 0.6 if masked else None
    layer.build(x.shape, x.shape)
    randomise(layer)
    want = oracles.multi_head_attention(x, x, by_name(layer), 2, mask)
    got = layer(x, x, attention_mask=mask)
    assert got._fields == ("context", "attention", "query", "key", "value")
    for name, ours, theirs in zip(got._fields, got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=name)


def test_cross_attention_from_unequal_widths_and_lengths_matches_the_loop_oracle():
    layer = MultiHeadAttention(15, 3)
    query, memory = normal(2, 7, 11, seed=1), normal(2, 13, 5, seed=2)
    mask = random_mask(7, 13)
    layer(query, memory)
    randomise(layer)
    want = oracles.multi_head_attention(query, memory, by_name(layer), 3, mask)
    for ours, theirs in zip(layer(query, memory, attention_mask=mask), want, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_grouped_queries_match_the_loop_oracle(groups):
    layer = MultiHeadAttention(14, 6, head_dim=5, num_key_value_heads=groups)
    query, memory = normal(2, 7, 14, seed=1), normal(2, 11, 14, seed=2)
    mask = random_mask(7, 11)
    layer(query, memory)
    randomise(layer)
    assert layer.key_proj.kernel.shape == layer.value_proj.kernel.shape == (14, 5 * groups)
    want = decoder_oracles.attention(query, memory, by_name(layer), 6, groups, mask[:, 0])
    spec = tf.TensorSpec((None, None, 14))
    run = tf.function(lambda q, m: layer(q, m, attention_mask=mask), input_signature=[spec, spec])
    for got in (layer(query, memory, attention_mask=mask), run(query, memory)):
        for name, ours, theirs in zip(got._fields, got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=name)


def test_a_bias_is_added_to_the_scores_before_the_mask():
    q, k = query_and_key(7, 11)
    bias, mask = normal(HEADS, 7, 11, scale=9), random_mask(7, 11)
    got = np.asarray(attention_weights(q, k, mask, bias))
    for b, h, t in np.ndindex(BATCH, HEADS, 7):
        allowed = np.flatnonzero(mask[b, 0, t])
        want = np.zeros(11)
        if allowed.size:
            scores = np.array([q[b, h, t].astype("float64") @ k[b, h, s] / np.sqrt(WIDTH) for s in allowed])
            want[allowed] = oracles.softmax(scores + bias[h, t, allowed])
        np.testing.assert_allclose(got[b, h, t], want, atol=1e-5)


def test_a_query_without_a_key_gets_the_bias_of_the_output_projection():
    layer = MultiHeadAttention(6, 3)
    x = normal(2, 5, 6)
    layer(x, x)
    randomise(layer)
    mask = np.ones((2, 5, 5), bool)
    mask[1, 3] = False
    context = np.asarray(layer(x, x, attention_mask=mask).context)
    np.testing.assert_allclose(context[1, 3], by_name(layer)["output/bias"], atol=1e-6)
    assert np.abs(context[1, 2] - context[1, 3]).max() > 1e-3


def test_huge_memory_behind_a_mask_changes_nothing():
    layer = MultiHeadAttention(6, 3)
    query, memory = normal(2, 5, 7), normal(2, 11, 7)
    changed = memory.copy()
    changed[:, 8:] = 1e30
    mask = np.broadcast_to(np.arange(11) < 8, (2, 11))
    plain, wild = (np.asarray(layer(query, m, attention_mask=mask).context) for m in (memory, changed))
    np.testing.assert_array_equal(plain, wild)


def test_later_tokens_change_nothing_behind_a_causal_mask():
    layer = MultiHeadAttention(6, 2)
    x = normal(2, 7, 6)
    want = np.asarray(layer(x, x, attention_mask=causal_mask(7)).context)
    for t in range(6):
        changed = x.copy()
        changed[:, t + 1 :] = normal(2, 6 - t, 6, seed=99, scale=50)
        got = np.asarray(layer(changed, changed, attention_mask=causal_mask(7)).context)
        np.testing.assert_array_equal(got[:, : t + 1], want[:, : t + 1])
        assert np.abs(got[:, t + 1 :] - want[:, t + 1 :]).max() > 1e-2


def test_the_order_of_memory_does_not_matter():
    layer = MultiHeadAttention(6, 2)
    query, memory = normal(2, 5, 7), normal(2, 11, 3)
    mask = random_mask(5, 11)
    order = np.random.default_rng(8).permutation(11)
    np.testing.assert_allclose(
        layer(query, memory[:, order], attention_mask=mask[..., order]).context,
        layer(query, memory, attention_mask=mask).context,
        atol=1e-6,
    )


def test_dropout_acts_on_the_weights_in_training_only():
    layer, x = MultiHeadAttention(6, 2, dropout=0.5), normal(2, 7, 6)
    quiet = layer(x, x)
    np.testing.assert_array_equal(layer(x, x, training=False).context, quiet.context)
    loud = layer(x, x, training=True)
    assert np.abs(np.asarray(loud.context) - np.asarray(quiet.context)).max() > 1e-3
    np.testing.assert_array_equal(loud.attention, quiet.attention)  # what a teacher is asked for has no dropout


def test_dropout_of_rate_zero_changes_nothing_in_training():
    layer, x = MultiHeadAttention(6, 2, dropout=0.0), normal(2, 7, 6)
    np.testing.assert_array_equal(layer(x, x, training=True).context, layer(x, x, training=False).context)


def test_a_width_that_heads_do_not_divide_is_refused_with_the_numbers_that_would_do():
    with pytest.raises(ValueError, match=r"10 % 4 = 2\. Use a num_heads out of \[1, 2, 5, 10\], or model_dim=12"):
        MultiHeadAttention(10, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_dim": 0, "num_heads": 1}, "model_dim=0 must be a whole number of at least 1"),
        ({"model_dim": 6, "num_heads": 2.0}, "num_heads=2.0 must be a whole number"),
        ({"model_dim": 6, "num_heads": 2, "dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"model_dim": 6, "num_heads": 2, "heads": 3}, "heads"),
        (
            {"model_dim": 12, "num_heads": 6, "num_key_value_heads": 4},
            r"num_heads=6 can't share num_key_value_heads=4 .* Use a num_key_value_heads out of \[1, 2, 3, 6\]",
        ),
        ({"model_dim": 6, "num_heads": 2, "num_key_value_heads": 0}, "num_key_value_heads=0 must be a whole number"),
        ({"model_dim": 6, "num_heads": 4, "head_dim": 0}, "head_dim=0 must be a whole number of at least 1"),
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**arguments)


def test_a_mask_of_numbers_is_refused_by_the_layer():
    layer, x = MultiHeadAttention(6, 2), normal(2, 7, 6)
    with pytest.raises(TypeError, match="attention_mask has dtype int64: a mask is boolean"):
        layer(x, x, attention_mask=np.ones((2, 7), int))


def test_divisors_are_all_whole_factors_in_order():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(13) == [1, 13]
