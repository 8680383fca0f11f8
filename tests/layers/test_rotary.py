import decoder_oracles
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from weights import normal

from keras_transformer.layers import RotaryPositions, rotary_table, rotate


@pytest.mark.parametrize(("length", "width"), [(1, 2), (7, 6), (3, 10)])
@pytest.mark.parametrize("start", [0, 5, np.array([0, 11, 3])])
def test_pairs_are_turned_as_complex_numbers_are(length, width, start):
    x = normal(3, 2, length, width)
    want = decoder_oracles.rotary(x.astype("float64"), np.broadcast_to(start, 3))
    np.testing.assert_allclose(rotate(x, rotary_table(length, width, start)), want, atol=1e-5)


def test_another_base_has_other_wavelengths():
    x = normal(2, 3, 7, 6)
    want = decoder_oracles.rotary(x.astype("float64"), [0, 0], base=500)
    np.testing.assert_allclose(rotate(x, rotary_table(7, 6, base=500)), want, atol=1e-5)


def test_the_product_of_query_and_key_depends_on_their_distance_alone():
    q, k = (np.broadcast_to(normal(1, 1, 1, 14, seed=seed), (1, 1, 41, 14)) for seed in (1, 2))
    table = rotary_table(41, 14)
    q, k = (np.asarray(rotate(x, table), "float64")[0, 0] for x in (q, k))
    for distance in (0, 1, 7):
        products = [q[m + distance] @ k[m] for m in range(41 - distance)]
        np.testing.assert_allclose(products, products[0], atol=1e-4)
    assert abs(q[7] @ k[0] - q[1] @ k[0]) > 1e-2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_vectors_are_turned_by_exact_angles(dtype):
    x = np.ones((1, 1, 300, 2), "float32")
    got = rotate(ops.cast(x, dtype), rotary_table(300, 2))
    assert keras.backend.standardize_dtype(got.dtype) == dtype
    want = decoder_oracles.rotary(x.astype("float64"), [0])
    np.testing.assert_allclose(np.asarray(ops.cast(got, "float32")), want, atol=8e-3)


def test_the_layer_takes_a_length_known_only_while_the_graph_runs():
    layer, x = RotaryPositions(6, base=300.0), normal(2, 7, 5)
    run = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 5))])
    np.testing.assert_allclose(run(x), rotary_table(7, 6, base=300.0), atol=1e-6)
    np.testing.assert_allclose(layer(x, start=np.array([4, 0]))[0], rotary_table(7, 6, start=4, base=300.0), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head_dim": 7}, r"head_dim=7 is odd: .* Use head_dim=8, or a num_heads"),
        ({"head_dim": 0}, "head_dim=0 must be a whole number of at least 1"),
        ({"head_dim": 6, "base": 0.0}, r"base=0.0 must be finite and above 0. Use for example base=10000"),
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        RotaryPositions(**arguments)
    with pytest.raises(ValueError, match=message):
        rotary_table(3, **arguments)
