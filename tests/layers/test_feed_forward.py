import keras
import numpy as np
import oracles
import pytest
from weights import by_name, normal, randomise

from keras_transformer.layers import FeedForward


@pytest.mark.parametrize(("activation", "oracle"), [("gelu", oracles.gelu), ("relu", oracles.relu)])
def test_the_output_matches_the_loop_oracle(activation, oracle):
    layer, x = FeedForward(7, 13, activation), normal(3, 5, 11, scale=2)
    layer(x)
    randomise(layer)
    np.testing.assert_allclose(layer(x), oracles.feed_forward(x, by_name(layer), oracle), atol=2e-5)


def test_gelu_is_the_exact_one_and_not_the_tanh_approximation():
    layer = FeedForward(1, 1)
    layer.build((1, 1))
    layer.inner.set_weights([np.ones((1, 1)), np.zeros(1)])
    layer.outer.set_weights([np.ones((1, 1)), np.zeros(1)])
    x = np.linspace(-4, 4, 41, dtype="float32")[:, None]
    approximation = np.asarray(keras.activations.gelu(x, approximate=True))
    exact = oracles.gelu(x.astype("float64"))
    assert np.abs(approximation - exact).max() > 3e-4
    np.testing.assert_allclose(layer(x), exact, atol=1e-6)


def test_each_position_is_worked_on_by_itself():
    layer, x = FeedForward(7, 13), normal(2, 5, 7)
    order = [3, 1, 4, 0, 2]
    np.testing.assert_allclose(layer(x[:, order]), np.asarray(layer(x))[:, order], atol=1e-6)


def test_dropout_acts_in_training_only():
    layer, x = FeedForward(7, 13, dropout=0.5), normal(2, 5, 7)
    quiet = np.asarray(layer(x))
    np.testing.assert_array_equal(layer(x, training=False), quiet)
    assert np.abs(np.asarray(layer(x, training=True)) - quiet).max() > 1e-3


def test_dropout_of_rate_zero_changes_nothing_in_training():
    layer, x = FeedForward(7, 13), normal(2, 5, 7)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_dim": -3, "inner_dim": 5}, "model_dim=-3 must be a whole number of at least 1"),
        ({"model_dim": 3, "inner_dim": True}, "inner_dim=True must be a whole number"),
        ({"model_dim": 3, "inner_dim": 5, "dropout": -0.1}, "dropout=-0.1 must be at least 0 and below 1"),
        ({"model_dim": 3, "inner_dim": 5, "activation": "gelou"}, "gelou"),
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeedForward(**arguments)
