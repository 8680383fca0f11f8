import numpy as np
import oracles
import pytest
import tensorflow as tf
from weights import by_name, normal, randomise

from keras_transformer.layers import FirstTokenPooling, MeanPooling

REAL = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 0]], bool)


def test_the_mean_matches_the_loop_oracle():
    hidden = normal(4, 5, 7)
    np.testing.assert_allclose(MeanPooling()(hidden, real=REAL), oracles.mean_pooling(hidden, REAL), atol=1e-6)


@pytest.mark.parametrize("wild", [1e30, np.inf, np.nan])
def test_padding_cannot_change_the_mean(wild):
    hidden = normal(4, 5, 7)
    changed = np.where(REAL[..., None], hidden, np.float32(wild))
    np.testing.assert_array_equal(MeanPooling()(changed, real=REAL), MeanPooling()(hidden, real=REAL))


def test_a_text_of_padding_has_mean_zero_and_gradient_zero():
    hidden = tf.constant(normal(4, 5, 7))
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        pooled = MeanPooling()(hidden, real=REAL)
        loss = tf.reduce_sum(pooled**2)
    np.testing.assert_array_equal(pooled[2], np.zeros(7))
    gradient = np.asarray(tape.gradient(loss, hidden))
    assert np.all(gradient[~REAL] == 0)
    assert np.all(gradient[REAL] != 0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_the_mean_over_many_tokens_is_taken_in_float32(policy):
    hidden, real = np.full((1, 2003, 3), 40.0, "float32"), np.ones((1, 2003), bool)  # the sum is above 65,504
    np.testing.assert_array_equal(tf.cast(MeanPooling(dtype=policy)(hidden, real=real), "float32"), [[40, 40, 40]])


def test_token_ids_in_place_of_a_mask_are_refused():
    with pytest.raises(TypeError, match=r"real has dtype int32: .*real=token_ids != 0"):
        MeanPooling()(normal(2, 5, 7), real=np.ones((2, 5), "int32"))


def test_first_token_pooling_matches_the_loop_oracle():
    layer, hidden = FirstTokenPooling(), normal(3, 5, 7)
    layer(hidden)
    randomise(layer)
    weights = by_name(layer)
    want = np.tanh(oracles.dense(hidden[:, 0], weights["dense/kernel"], weights["dense/bias"]))
    np.testing.assert_allclose(layer(hidden), want, atol=1e-6)


def test_first_token_pooling_sees_no_other_token():
    layer, hidden = FirstTokenPooling(), normal(3, 5, 7)
    changed = hidden.copy()
    changed[:, 1:] = 1e30
    np.testing.assert_array_equal(layer(changed), layer(hidden))
