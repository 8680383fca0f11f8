"""Masks are drawn: 1 = may attend."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer.layers import cache_mask, causal_mask, padding_mask, prefix_mask, sliding_window_mask
from keras_transformer.layers.masks import require_boolean, with_head_axis


def test_a_padding_mask_is_true_at_real_tokens():
    ids = np.array([[5, 6, 7], [8, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(
        padding_mask(ids),
        np.array([[[1, 1, 1]], [[1, 0, 0]], [[0, 0, 0]]], bool),
    )


def test_a_padding_mask_takes_another_pad_id():
    np.testing.assert_array_equal(padding_mask(np.array([[0, 3, 1]]), pad_id=1), np.array([[[1, 1, 0]]], bool))


def test_a_causal_mask_is_lower_triangular():
    np.testing.assert_array_equal(
        causal_mask(5),
        np.array(
            [
                [
                    [1, 0, 0, 0, 0],
                    [1, 1, 0, 0, 0],
                    [1, 1, 1, 0, 0],
                    [1, 1, 1, 1, 0],
                    [1, 1, 1, 1, 1],
                ]
            ],
            bool,
        ),
    )


def test_a_causal_mask_takes_a_length_known_only_while_the_graph_runs():
    @tf.function(input_signature=[tf.TensorSpec((), tf.int32)])
    def mask(length):
        return causal_mask(length)

    np.testing.assert_array_equal(mask(tf.constant(2)), np.array([[[1, 0], [1, 1]]], bool))


def test_a_sliding_window_is_a_band_below_the_diagonal():
    np.testing.assert_array_equal(
        sliding_window_mask(5, 2),
        np.array(
            [
                [
                    [1, 0, 0, 0, 0],
                    [1, 1, 0, 0, 0],
                    [0, 1, 1, 0, 0],
                    [0, 0, 1, 1, 0],
                    [0, 0, 0, 1, 1],
                ]
            ],
            bool,
        ),
    )
    np.testing.assert_array_equal(sliding_window_mask(5, 9), causal_mask(5))


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window=0 must be a whole number of at least 1"):
        sliding_window_mask(5, 0)


def test_a_prefix_is_seen_whole_by_its_row():
    np.testing.assert_array_equal(
        prefix_mask(np.array([0, 3]), 4),
        np.array(
            [
                [
                    [1, 0, 0, 0],
                    [1, 1, 0, 0],
                    [1, 1, 1, 0],
                    [1, 1, 1, 1],
                ],
                [
                    [1, 1, 1, 0],
                    [1, 1, 1, 0],
                    [1, 1, 1, 0],
                    [1, 1, 1, 1],
                ],
            ],
            bool,
        ),
    )


def test_new_tokens_see_what_their_row_knows_and_themselves():
    np.testing.assert_array_equal(
        cache_mask(np.array([0, 2], "int32"), 2, 5),
        np.array(
            [
                [
                    [1, 0, 0, 0, 0],
                    [1, 1, 0, 0, 0],
                ],
                [
                    [1, 1, 1, 0, 0],
                    [1, 1, 1, 1, 0],
                ],
            ],
            bool,
        ),
    )


def test_a_causal_and_a_padding_mask_join_to_a_decoder_mask():
    joined = ops.logical_and(padding_mask(np.array([[5, 6, 0], [7, 0, 0]])), causal_mask(3))
    np.testing.assert_array_equal(
        joined,
        np.array(
            [
                [[1, 0, 0], [1, 1, 0], [1, 1, 0]],
                [[1, 0, 0], [1, 0, 0], [1, 0, 0]],
            ],
            bool,
        ),
    )


def test_joined_masks_hold_no_operator_that_phones_lack():
    @tf.function(input_signature=[tf.TensorSpec((2, 3), tf.int32), tf.TensorSpec((2, 5, 3, 3), tf.float32)])
    def mask(ids, scores):
        return with_head_axis(ops.logical_and(padding_mask(ids), causal_mask(3)), scores.shape)

    operators = {node.type for node in mask.get_concrete_function().graph.get_operations()}
    assert "LogicalAnd" in operators
    assert not operators & {"BitwiseAnd", "StridedSlice"}


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 5), (1, 3, 5), (2, 1, 3, 5), (2, 7, 3, 5), (1, 1, 1, 5)])
def test_a_fitting_mask_gets_four_axes(shape):
    mask = np.arange(np.prod(shape)).reshape(shape) % 3 == 0
    with_heads = np.asarray(with_head_axis(mask, (2, 7, 3, 5)))
    assert with_heads.ndim == 4
    wanted = mask if len(shape) == 4 else mask[:, None] if len(shape) == 3 else mask[:, None, None]
    np.testing.assert_array_equal(with_heads, wanted)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 5, 3), (2, 3, 1, 3, 5), (2, 4, 3, 5)])
def test_a_mask_of_a_wrong_shape_is_refused_with_both_shapes_and_the_fix(shape):
    with pytest.raises(ValueError, match=r"can't broadcast against scores .* \(2, 7, 3, 5\)\. Pass \(B, S\)") as error:
        with_head_axis(np.ones(shape, bool), (2, 7, 3, 5))
    assert ", 5)" in str(error.value) or "(5,)" in str(error.value) or ", 3)" in str(error.value)


@pytest.mark.parametrize("kind", ["int32", "float32", "uint8"])
def test_a_mask_of_numbers_is_refused_with_the_way_to_write_it(kind):
    with pytest.raises(TypeError, match=rf"padding has dtype {kind}: .*padding=token_ids != 0"):
        require_boolean("padding", np.ones((2, 3), kind))
    with pytest.raises(TypeError, match=f"attention_mask has dtype {kind}"):
        with_head_axis(np.ones((2, 3), kind), (2, 7, 5, 3))
