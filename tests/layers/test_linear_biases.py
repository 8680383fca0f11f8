import decoder_oracles
import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import normal

from keras_transformer.layers import LinearBiases, alibi_biases, alibi_slopes


def oracle(num_heads, starts, queries, keys):
    out = np.empty((len(starts), num_heads, queries, keys))
    for b, t, s in np.ndindex(len(starts), queries, keys):
        out[b, :, t, s] = decoder_oracles.alibi(num_heads, starts[b] + t, s)
    return out


def test_eight_heads_have_the_slopes_of_the_paper():
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


@pytest.mark.parametrize(("heads", "queries", "keys"), [(1, 1, 7), (3, 5, 5), (8, 2, 11)])
def test_biases_match_the_loop_oracle(heads, queries, keys):
    np.testing.assert_allclose(alibi_biases(heads, queries, keys), oracle(heads, [0], queries, keys)[0], rtol=1e-6)
    starts = np.array([2, 0, 6])
    got = alibi_biases(heads, queries, keys, start=starts)
    np.testing.assert_allclose(got, oracle(heads, starts, queries, keys), rtol=1e-6)


def test_the_layer_takes_a_length_known_only_while_the_graph_runs_and_stays_float32():
    layer, x = LinearBiases(3, dtype="mixed_bfloat16"), normal(2, 7, 5)
    run = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 5))])
    np.testing.assert_allclose(run(x), oracle(3, [0], 7, 7)[0], rtol=1e-6)
    steps = layer(x[:, :1], start=np.array([3, 9]), num_keys=13)
    assert keras.backend.standardize_dtype(steps.dtype) == "float32"
    np.testing.assert_allclose(steps, oracle(3, [3, 9], 1, 13), rtol=1e-6)


def test_no_heads_are_refused():
    for make in (LinearBiases, alibi_slopes):
        with pytest.raises(ValueError, match="num_heads=0 must be a whole number of at least 1"):
            make(0)
