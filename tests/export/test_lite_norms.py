"""LayerNorms of a file in fewer operators say the same as a loop in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from two_products import plain

from keras_transformer.export.lite_norms import with_short_norms
from keras_transformer.export.lite_operators import signature_operators

TOKENS, WIDTH = 5, 7
EPSILON = 1e-3


def converted(norm, give_scaled=False):
    """x (1, T, D) -> `y`, its norm; with the means of x as another output if asked."""

    @tf.function(input_signature=[tf.TensorSpec((1, TOKENS, WIDTH), tf.float32, "x")], autograph=False)
    def call(x):
        y = norm(x)
        return {"y": y, "z": tf.reduce_mean(x, -1, keepdims=True)} if give_scaled else {"y": y}

    module = tf.Module()
    module.call, module.weights = call, [weight.value for weight in norm.weights]
    return tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module).convert()


@pytest.fixture(scope="module")
def norm():
    """One with drawn gamma and beta."""
    layer = keras.layers.LayerNormalization(epsilon=EPSILON)
    layer.build((1, TOKENS, WIDTH))
    random = np.random.default_rng(2)
    for weight in layer.weights:
        weight.assign(random.normal(size=weight.shape))
    return layer


@pytest.fixture(scope="module")
def files(norm):
    """As it is converted, and in fewer operators."""
    before = converted(norm)
    return before, with_short_norms(before)


def numpy_norm(x, norm):
    """By loops, in float64."""
    gamma, beta = (np.asarray(weight.numpy(), np.float64) for weight in (norm.gamma, norm.beta))
    out = np.zeros(x.shape)
    for place in np.ndindex(*x.shape[:2]):
        row = x[place].astype(np.float64)
        mean = sum(row) / WIDTH
        variance = sum((value - mean) ** 2 for value in row) / WIDTH
        out[place] = (row - mean) / np.sqrt(variance + EPSILON) * gamma + beta
    return out


def answer(content, x):
    return Interpreter(model_content=content, num_threads=1).get_signature_runner()(x=x)["y"]


@pytest.mark.parametrize(("middle", "spread", "error"), [(0.0, 1.0, 1e-6), (3.0, 1e-3, 3e-5), (1e3, 1.0, 2e-4)])
def test_a_norm_is_that_of_a_loop_in_float64(files, norm, middle, spread, error):
    x = (middle + spread * np.random.default_rng(7).normal(size=(1, TOKENS, WIDTH))).astype("float32")
    exact = numpy_norm(x, norm)
    before, after = (np.abs(answer(content, x) - exact).max() for content in files)
    assert after < error * np.abs(exact).max()
    assert after <= before + 1e-6


def test_one_product_and_the_squared_difference_are_gone(files, tmp_path):
    counted = []
    for content in files:
        (tmp_path / "norm.tflite").write_bytes(content)
        counted += signature_operators(tmp_path / "norm.tflite")
    before, after = ({name: one.in_file.get(name, 0) for name in ("SUB", "NEG", "ADD", "MUL")} for one in counted)
    assert (sum(before.values()), sum(after.values())) == (7, 6)
    assert ("SQUARED_DIFFERENCE" in counted[0].in_file, "SQUARED_DIFFERENCE" in counted[1].in_file) == (True, False)
    assert counted[1].taken == counted[1].in_file


def test_a_classifier_with_short_norms_stays_within_rounding(lite, keras_logits, review_tokenizer, examples):
    runner = Interpreter(model_path=lite("none").path).get_signature_runner("tokens")
    for text, expected in zip(examples[:7], keras_logits, strict=False):
        ids = np.array(review_tokenizer.encode([text], 19), np.int32)
        np.testing.assert_allclose(runner(token_ids=ids)["logits"][0], expected, atol=2e-5)


def test_a_norm_whose_mean_is_asked_for_too_is_short_and_the_mean_stays(norm):
    content = with_short_norms(converted(norm, give_scaled=True))
    x = np.random.default_rng(9).normal(size=(1, TOKENS, WIDTH)).astype("float32")
    found = Interpreter(model_content=content).get_signature_runner()(x=x)
    np.testing.assert_allclose(found["y"], numpy_norm(x, norm), atol=1e-5)
    np.testing.assert_allclose(found["z"], x.mean(axis=-1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("given", ["scale", "product", "shift", "offset"])
def test_a_norm_whose_steps_are_asked_for_stays(given):
    """What it would compute in their place has other values."""
    gamma, beta = (tf.constant(np.random.default_rng(seed).normal(size=WIDTH), tf.float32) for seed in (3, 4))

    @tf.function(input_signature=[tf.TensorSpec((1, TOKENS, WIDTH), tf.float32, "x")], autograph=False)
    def call(x):
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
        scale = tf.math.rsqrt(variance + EPSILON) * gamma
        product, shift = x * scale, -mean * scale
        offset = shift + beta
        steps = {"scale": scale, "product": product, "shift": shift, "offset": offset}
        return {"y": product + offset, "z": steps[given]}

    module = tf.Module()
    module.call = call
    content = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module).convert()
    x = np.random.default_rng(9).normal(size=(1, TOKENS, WIDTH)).astype("float32")
    before, after = (
        Interpreter(model_content=one).get_signature_runner()(x=x) for one in (content, with_short_norms(content))
    )
    for name in ("y", "z"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)


@pytest.mark.parametrize("activation", [tf.nn.relu, tf.nn.relu6])
def test_an_activation_behind_a_norm_stays(norm, activation):
    """The converter fuses it into the norm's last sum."""

    def activated(x):
        return activation(norm(x))

    activated.weights = norm.weights
    content = with_short_norms(converted(activated))
    x = np.random.default_rng(9).normal(size=(1, TOKENS, WIDTH)).astype("float32")
    expected = activation(numpy_norm(x, norm)).numpy()
    assert (expected == 0).sum() > 5
    np.testing.assert_allclose(answer(content, x), expected, atol=1e-5)


def test_gamma_and_beta_may_be_computed_and_stand_on_either_side():
    @tf.function(input_signature=[tf.TensorSpec((1, TOKENS, WIDTH), tf.float32, "x")], autograph=False)
    def call(x):
        gamma, beta = (tf.math.sin(x[:, :1] * factor) for factor in (2.0, 3.0))
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
        scale = gamma * tf.math.rsqrt(variance + EPSILON)
        return {"y": x * scale + (beta + -mean * scale)}

    module = tf.Module()
    module.call = call
    content = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module).convert()
    x = np.random.default_rng(9).normal(size=(1, TOKENS, WIDTH)).astype("float32")
    short = with_short_norms(content)
    np.testing.assert_allclose(answer(short, x), call(x)["y"], atol=1e-5)
    np.testing.assert_allclose(answer(short, x), answer(content, x), atol=1e-5)


def test_another_use_of_squared_differences_stays(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec((1, TOKENS, WIDTH), tf.float32, "x")], autograph=False)
    def call(x):
        return {"y": tf.math.squared_difference(x, tf.reduce_mean(x, -1, keepdims=True))}

    module = tf.Module()
    module.call = call
    content = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module).convert()
    assert with_short_norms(content) is content


def test_a_file_without_norms_stays_as_it_is():
    content = plain()
    assert with_short_norms(content) is content
