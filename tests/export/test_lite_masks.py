"""A cap for masked scores changes no bit of what a file says, and XNNPACK takes it."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from two_products import plain

from keras_transformer.export.lite_masks import with_capped_scores
from keras_transformer.export.lite_operators import signature_operators
from keras_transformer.export.signatures import BareWeights, token_function
from keras_transformer.layers.attention import MASKED_SCORE

HEADS, QUERIES, KEYS = 2, 3, 5


def converted(module, function):
    """The float32 flatbuffer that TensorFlow's converter makes."""
    return tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module).convert()


@pytest.fixture(scope="module")
def files(review_model):
    """The classifier as it is converted, and with caps."""
    chosen = converted(BareWeights(review_model), token_function(review_model, (1, None), limits=None))
    return chosen, with_capped_scores(chosen)


def logits(content, ids, xnnpack=True):
    """What a file says of one row."""
    from ai_edge_litert.interpreter import OpResolverType as Resolver

    resolver = Resolver.AUTO if xnnpack else Resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=resolver)
    return interpreter.get_signature_runner()(token_ids=np.array([ids], np.int32))["logits"]


@pytest.mark.parametrize("xnnpack", [True, False])
@pytest.mark.parametrize(
    "ids", [[7], [5, 6, 7, 0, 0], [5, 0, 7, 8], [0, 0, 0], [3, 9, 27, 81, 12, 36, 108, 5, 15, 45, 2]]
)
def test_each_bit_of_the_logits_stays(files, ids, xnnpack):
    chosen, capped = (logits(content, ids, xnnpack) for content in files)
    np.testing.assert_array_equal(capped, chosen)


def test_padding_changes_nothing(files):
    _, capped = files
    np.testing.assert_allclose(logits(capped, [5, 6, 7, 0, 0]), logits(capped, [5, 6, 7]), atol=1e-6)


def test_scores_are_chosen_nowhere_and_the_cap_once(files, tmp_path):
    counted = []
    for content in files:
        (tmp_path / "file.tflite").write_bytes(content)
        counted += signature_operators(tmp_path / "file.tflite")
    chosen, capped = counted
    assert (chosen.in_file.get("MINIMUM", 0), capped.in_file["MINIMUM"], capped.taken["MINIMUM"]) == (0, 2, 2)
    assert capped.in_file["SELECT_V2"] == chosen.in_file["SELECT_V2"] - 2 + 1
    assert capped.pieces < chosen.pieces


def attention(mask_lengths):
    """Scores (1, H, T, S) and a mask -> weights, as `attention_weights` has them; values by way of the layer's swap."""
    shapes = {"scores": (1, HEADS, QUERIES, KEYS), "values": (1, KEYS, HEADS, 7)}
    specs = [tf.TensorSpec(shape, tf.float32, name) for name, shape in shapes.items()]

    @tf.function(input_signature=[*specs, tf.TensorSpec(mask_lengths, tf.bool, "mask")], autograph=False)
    def call(scores, values, mask):
        weights = tf.nn.softmax(tf.where(mask, scores, MASKED_SCORE)) * tf.cast(mask, tf.float32)
        return {"context": weights @ tf.transpose(values, (0, 2, 1, 3))}

    module = tf.Module()
    module.call = call
    return converted(module, call)


@pytest.mark.parametrize("mask_lengths", [(1, 1, 1, KEYS), (1, 1, QUERIES, KEYS)])
@pytest.mark.parametrize("largest", [1.0, 1e3, 2e38])
def test_a_masked_key_has_no_weight_and_a_row_without_keys_gives_nothing(mask_lengths, largest):
    random = np.random.default_rng(5)
    chosen = attention(mask_lengths)
    runners = [
        Interpreter(model_content=content).get_signature_runner() for content in (chosen, with_capped_scores(chosen))
    ]
    for allowed in (0.0, 0.3, 0.7, 1.0):
        mask = random.random(mask_lengths) < allowed
        scores = (largest * random.uniform(-1, 1, (1, HEADS, QUERIES, KEYS))).astype("float32")
        values = random.normal(size=(1, KEYS, HEADS, 7)).astype("float32")
        expected, found = (runner(scores=scores, values=values, mask=mask)["context"] for runner in runners)
        np.testing.assert_array_equal(found, expected)
        seen = np.broadcast_to(mask, scores.shape)
        assert not found[~seen.any(axis=-1)].any()
        for head, query in np.argwhere(seen.sum(axis=-1)[0] == 1):
            key = np.flatnonzero(seen[0, head, query])[0]
            np.testing.assert_allclose(found[0, head, query], values[0, key, head], rtol=1e-6)


def test_two_attentions_may_share_a_mask_with_other_numbers_in_place_of_scores():
    shape = (1, HEADS, QUERIES, KEYS)
    specs = [tf.TensorSpec(shape, tf.float32, "scores"), tf.TensorSpec((1, 1, 1, KEYS), tf.bool, "mask")]

    @tf.function(input_signature=specs, autograph=False)
    def call(scores, mask):
        second = tf.where(mask, 2.0 * scores, -2e38)
        first = tf.where(mask, scores, MASKED_SCORE)
        return {"one": tf.nn.softmax(first), "other": tf.nn.softmax(second) ** 2}

    module = tf.Module()
    module.call = call
    chosen = converted(module, call)
    capped = with_capped_scores(chosen)
    assert capped is not chosen
    random = np.random.default_rng(5)
    for allowed in (0.0, 0.5):
        inputs = {
            "scores": random.normal(size=shape).astype("float32"),
            "mask": random.random((1, 1, 1, KEYS)) < allowed,
        }
        before, after = (
            Interpreter(model_content=content).get_signature_runner()(**inputs) for content in (chosen, capped)
        )
        for name in ("one", "other"):
            np.testing.assert_array_equal(after[name], before[name])


def test_a_mask_as_large_as_the_scores_stays():
    """A cap would save nothing."""
    content = attention((1, HEADS, QUERIES, KEYS))
    assert with_capped_scores(content) is content


def test_a_file_without_masks_stays_as_it_is():
    content = plain()
    assert with_capped_scores(content) is content


def test_another_choice_before_a_softmax_stays():
    """Of numbers that a softmax doesn't take for nothing."""

    @tf.function(input_signature=[tf.TensorSpec((1, 5), tf.float32, "x"), tf.TensorSpec((1, 1), tf.bool, "m")])
    def call(x, m):
        return {"y": tf.nn.softmax(tf.where(m, x, -9.0))}

    module = tf.Module()
    module.call = call
    content = converted(module, call)
    assert with_capped_scores(content) is content
