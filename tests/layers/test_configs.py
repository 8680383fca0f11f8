"""What holds for each public layer alike: its config, and its numbers under the three precision policies."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import by_name, normal, randomise

from keras_transformer import layers

POLICIES = ["float32", "mixed_bfloat16", "mixed_float16"]
IDS = np.array([[3, 11, 5, 0, 0], [0, 0, 0, 0, 0]], dtype="int32")
REAL = IDS != 0
DECODER = {
    "model_dim": 6,
    "num_heads": 2,
    "inner_dim": 11,
    "dropout": 0.25,
    "activation": "gelu_tanh",
    "norm_first": True,
    "epsilon": 1e-3,
    "head_dim": 5,
    "num_key_value_heads": 1,
    "cross_attention": True,
    "ranks": {"cross_attention/key": 2, "feed_forward/outer": 3},
    "block_size": 3,
}
# Layers that give one dtype under each policy; the others give the policy's.
HALVES = [layers.MultiHeadAttention, layers.EncoderLayer, layers.Encoder, layers.DecoderLayer, layers.Decoder]
FIXED_DTYPE = {layers.CausalMask: "bool", layers.RotaryPositions: "float32", layers.LinearBiases: "float32"}
# Each layer with no argument at its default, and what to call it with.
EXAMPLES = {
    layers.MultiHeadAttention: (
        {
            "model_dim": 6,
            "num_heads": 2,
            "dropout": 0.25,
            "head_dim": 5,
            "num_key_value_heads": 1,
            "ranks": {"query": 2},
            "block_size": 3,
        },
        lambda x: ((x, x), {"attention_mask": REAL}),
    ),
    layers.FeedForward: (
        {"model_dim": 6, "inner_dim": 11, "activation": "relu", "dropout": 0.25, "ranks": {"inner": 2, "outer": 5}},
        lambda x: ((x,), {}),
    ),
    layers.EncoderLayer: (
        {
            "model_dim": 6,
            "num_heads": 2,
            "inner_dim": 11,
            "dropout": 0.25,
            "activation": "relu",
            "norm_first": True,
            "epsilon": 1e-5,
            "head_dim": 5,
            "ranks": {"attention/value": 2, "feed_forward/inner": 3},
            "block_size": 3,
        },
        lambda x: ((x,), {"attention_mask": REAL}),
    ),
    layers.Encoder: (
        {
            "num_layers": 3,
            "model_dim": 6,
            "num_heads": 2,
            "inner_dim": 11,
            "dropout": 0.25,
            "activation": "relu",
            "norm_first": True,
            "epsilon": 1e-5,
            "head_dim": 5,
            "ranks": {"layer_1/attention/output": 2},
            "block_size": 3,
            "recompute_layers": True,
        },
        lambda x: ((x,), {"attention_mask": REAL}),
    ),
    layers.DecoderLayer: (
        DECODER,
        lambda x: ((x, x), {"attention_mask": layers.causal_mask(5), "memory_mask": REAL}),
    ),
    layers.Decoder: (
        {"num_layers": 3, **DECODER, "ranks": {"layer_2/attention/output": 2}, "recompute_layers": True},
        lambda x: ((x, x), {"attention_mask": layers.causal_mask(5), "memory_mask": REAL}),
    ),
    layers.CausalMask: ({}, lambda x: ((x,), {})),
    layers.RotaryPositions: ({"head_dim": 8, "base": 500.0}, lambda x: ((x,), {"start": 3})),
    layers.LinearBiases: ({"num_heads": 3}, lambda x: ((x,), {"start": 3})),
    layers.PositionalEncoding: ({}, lambda x: ((x,), {"start": 3})),
    layers.LearnedPositions: ({"max_length": 7}, lambda x: ((x,), {"start": 2})),
    layers.TokenEmbedding: (
        {"vocab_size": 13, "model_dim": 6, "embedding_dim": 3, "kept_pieces": 5, "scale": 2.5},
        lambda x: ((IDS,), {}),
    ),
    layers.SegmentEmbedding: ({"num_segments": 3}, lambda x: ((x,), {})),
    layers.MeanPooling: ({}, lambda x: ((x,), {"real": REAL})),
    layers.FirstTokenPooling: ({"ranks": {"dense": 2}}, lambda x: ((x,), {})),
    layers.LowRankDense: (
        {"units": 5, "rank": 3, "activation": "relu", "use_bias": False},
        lambda x: ((x,), {}),
    ),
    layers.TokenBias: ({}, lambda x: ((x,), {})),
}


def first_of(output):
    return output[0] if isinstance(output, tuple) else output


def public_layers():
    public = [getattr(layers, name) for name in layers.__all__]
    return [kind for kind in public if inspect.isclass(kind) and issubclass(kind, keras.layers.Layer)]


def own_arguments(kind):
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD} - {"self"}


def test_each_public_layer_has_an_example_here():
    assert set(public_layers()) == set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_config_returns_every_argument_as_it_was_given(kind):
    arguments, _ = EXAMPLES[kind]
    assert set(arguments) == own_arguments(kind)
    defaults = {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items()}
    for name, value in arguments.items():
        assert value != defaults[name], f"{name} is at its default: a config that forgets it would pass"
    config = kind(**arguments, name="chosen", trainable=False).get_config()
    assert {name: config[name] for name in arguments} == arguments
    assert config["name"] == "chosen"
    assert config["trainable"] is False


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_config_goes_through_json_and_back_unchanged(kind, policy):
    layer = kind(**EXAMPLES[kind][0], dtype=keras.dtype_policies.get(policy))
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(saved)
    assert type(again) is kind
    assert json.loads(json.dumps(keras.saving.serialize_keras_object(again))) == saved
    assert again.dtype_policy.name == policy


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_layer_built_from_its_config_takes_the_weights_and_agrees(kind):
    arguments, inputs = EXAMPLES[kind]
    positional, named = inputs(normal(2, 5, 6))
    layer = kind(**arguments)
    want = layer(*positional, **named)
    again = kind.from_config(layer.get_config())
    again(*positional, **named)
    randomise(layer)
    again.set_weights(layer.get_weights())
    assert list(by_name(again)) == list(by_name(layer))
    want = first_of(layer(*positional, **named))
    np.testing.assert_array_equal(first_of(again(*positional, **named)), want)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_unknown_option_is_refused(kind):
    with pytest.raises((TypeError, ValueError), match="droopout"):
        kind(**EXAMPLES[kind][0], droopout=0.1)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", EXAMPLES)
def test_outputs_and_gradients_are_finite_under_each_policy(kind, policy):
    """With a text of padding, whose rows have no key at all, and inputs of up to a thousand."""
    arguments, inputs = EXAMPLES[kind]
    layer = kind(**arguments, dtype=policy)
    positional, named = inputs(normal(2, 5, 6, scale=300))
    layer(*positional, **named)
    randomise(layer, scale=0.3)
    with tf.GradientTape() as tape:
        output = first_of(layer(*positional, **named))
        loss = tf.reduce_mean(tf.cast(output, "float32"))
    assert keras.backend.standardize_dtype(output.dtype) == FIXED_DTYPE.get(kind, policy.removeprefix("mixed_"))
    assert np.all(np.isfinite(tf.cast(output, "float32")))
    for weight, gradient in zip(
        layer.trainable_weights, tape.gradient(loss, [w.value for w in layer.trainable_weights]), strict=True
    ):
        assert keras.backend.standardize_dtype(weight.dtype) == "float32"
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient))), weight.path


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("kind", HALVES)
def test_half_precision_stays_near_float32(kind, policy):
    arguments, inputs = EXAMPLES[kind]
    positional, named = inputs(normal(2, 5, 6))
    exact, half = kind(**arguments), kind(**arguments, dtype=policy)
    exact(*positional, **named)
    half(*positional, **named)
    randomise(exact)
    half.set_weights(exact.get_weights())
    want = np.asarray(first_of(exact(*positional, **named)))
    got = np.asarray(tf.cast(first_of(half(*positional, **named)), "float32"))
    assert np.abs(got - want).max() / np.abs(want).max() < (0.05 if policy == "mixed_bfloat16" else 0.01)
