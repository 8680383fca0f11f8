import numpy as np
import pytest
import tensorflow as tf
from weights import normal

from keras_transformer.layers.per_token import as_matrix, leading_lengths


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (2, 7, 3, 5)])
def test_a_matrix_and_back_is_the_same_tensor(shape):
    x = normal(*shape)
    matrix = as_matrix(x)
    assert tuple(matrix.shape) == (x.size // 5, 5)
    np.testing.assert_array_equal(tf.reshape(matrix, (*leading_lengths(x), 5)), x)


@pytest.mark.parametrize(
    ("declared", "want"), [((2, 3, 5), (2, 3)), ((1, None, 5), (1, -1)), ((None, 3, 5), (-1, 3)), ((None, 5), (-1,))]
)
def test_lengths_are_constants_of_the_graph_where_at_most_one_is_unknown(declared, want):
    seen = []
    tf.function(lambda x: seen.append(leading_lengths(x)), input_signature=[tf.TensorSpec(declared)])(
        np.zeros([3 if length is None else length for length in declared], "float32")
    )
    assert seen == [want]


@pytest.mark.parametrize("batch", [0, 2])
def test_an_empty_batch_keeps_its_shape(batch):
    double = tf.function(
        lambda x: tf.reshape(2 * as_matrix(x), (*leading_lengths(x), 5)),
        input_signature=[tf.TensorSpec((None, None, 5))],
    )
    assert double(np.ones((batch, 3, 5), "float32")).shape == (batch, 3, 5)
