import numpy as np
import pytest
import tensorflow as tf
from weights import normal

from keras_transformer.layers import KeyValues, empty_key_values
from keras_transformer.layers.cache import with_room, write

POSITION = np.array([0, 6, 3], "int32")


def oracle(cache, new, position):
    out = np.array(cache)
    for b, g, step in np.ndindex(*new.shape[:3]):
        out[b, g, position[b] + step] = new[b, g, step]
    return out


@pytest.mark.parametrize("length", [1, 5])
def test_each_row_is_written_at_its_own_place_and_nowhere_else(length):
    cache = KeyValues(normal(3, 2, 11, 7, seed=1), normal(3, 2, 11, 7, seed=2))
    new = KeyValues(normal(3, 2, length, 7, seed=3), normal(3, 2, length, 7, seed=4))
    want = [oracle(*parts, POSITION) for parts in zip(cache, new, strict=True)]
    spec = [tf.TensorSpec((None, 2, None, 7)), tf.TensorSpec((None, 2, length, 7))]

    @tf.function(input_signature=[KeyValues(*spec[:1] * 2), KeyValues(*spec[1:] * 2), tf.TensorSpec((None,), tf.int32)])
    def in_graph(cache, new, position):
        return write(cache, new, position)

    for run in (write, in_graph, tf.function(write, jit_compile=True)):
        got = run(cache, new, POSITION)
        assert isinstance(got, KeyValues)
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_cache_that_came_in_stays_as_it_was():
    """A beam or a second try may start from it again."""
    before, new = tf.zeros((3, 2, 11, 7)), tf.ones((3, 2, 5, 7))
    for run in (write, tf.function(write)):
        after = run(KeyValues(before, before), KeyValues(new, new), POSITION)
        assert np.all(np.asarray(before) == 0)
        assert np.count_nonzero(after.key) == np.count_nonzero(after.value) == 3 * 2 * 5 * 7


def test_a_place_beyond_the_room_is_an_error_and_never_another_rows():
    cache = empty_key_values(2, 3, 5, 7, "float32")
    new = KeyValues(*[normal(2, 3, 1, 7)] * 2)
    with pytest.raises(tf.errors.InvalidArgumentError):
        write(cache, new, np.array([0, 5], "int32"))


def test_room_is_added_at_the_end():
    known = KeyValues(normal(2, 3, 5, 7, seed=1), normal(2, 3, 5, 7, seed=2))
    longer = with_room(known, 11)
    for ours, theirs in zip(longer, known, strict=True):
        assert ours.shape == (2, 3, 11, 7)
        np.testing.assert_array_equal(ours[:, :, :5], theirs)
        assert np.all(np.asarray(ours[:, :, 5:]) == 0)
    np.testing.assert_array_equal(with_room(known, 5).key, known.key)


def test_an_empty_cache_has_the_dtype_asked_for():
    cache = empty_key_values(2, 3, 5, 7, "bfloat16")
    assert cache.key.shape == cache.value.shape == (2, 3, 5, 7)
    assert cache.key.dtype == cache.value.dtype == tf.bfloat16
