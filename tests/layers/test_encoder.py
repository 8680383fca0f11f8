import numpy as np
import oracles
import pytest
import tensorflow as tf
from weights import by_name, normal, randomise

from keras_transformer.layers import Encoder, EncoderLayer, causal_mask

WIDTH, HEADS, INNER = 14, 2, 11


def encoder_layer(norm_first=False, **options):
    layer = EncoderLayer(WIDTH, HEADS, INNER, norm_first=norm_first, **options)
    layer.build((None, None, WIDTH))
    return randomise(layer)


def encoder(norm_first=False, **options):
    stack = Encoder(3, WIDTH, HEADS, INNER, norm_first=norm_first, **options)
    stack.build((None, None, WIDTH))
    return randomise(stack)


def mask_with_a_row_of_nothing(length):
    mask = np.random.default_rng(3).random((3, length, length)) < 0.6
    mask[1, 2] = False
    return mask


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_matches_the_loop_oracle(norm_first, masked):
    layer, x = encoder_layer(norm_first), normal(3, 5, WIDTH)
    mask = mask_with_a_row_of_nothing(5) if masked else None
    want = oracles.encoder_layer(x, by_name(layer), HEADS, mask[:, None] if masked else None, norm_first)
    got = layer(x, attention_mask=mask)
    assert got._fields == ("hidden", "attention", "query", "key", "value")
    for name, ours, theirs in zip(got._fields, got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-5, err_msg=name)


def test_activation_and_epsilon_reach_their_places():
    layer, x = encoder_layer(activation="relu", epsilon=0.25), normal(3, 5, WIDTH)
    want = oracles.encoder_layer(x, by_name(layer), HEADS, activation=oracles.relu, epsilon=0.25)
    np.testing.assert_allclose(layer(x).hidden, want[0], atol=5e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_stack_matches_the_loop_oracle(norm_first):
    stack, x, mask = encoder(norm_first), normal(3, 5, WIDTH), mask_with_a_row_of_nothing(5)
    weights, want = by_name(stack), x.astype("float64")
    for index in range(3):
        want, *_ = oracles.encoder_layer(
            want, oracles.below(weights, f"layer_{index}"), HEADS, mask[:, None], norm_first
        )
    if norm_first:
        want = oracles.layer_norm(want, weights["final_norm/gamma"], weights["final_norm/beta"])
    np.testing.assert_allclose(stack(x, attention_mask=mask), want, atol=1e-4)


def test_only_a_pre_norm_stack_ends_with_a_norm():
    assert "final_norm/gamma" in by_name(encoder(norm_first=True))
    assert "final_norm/gamma" not in by_name(encoder(norm_first=False))


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_at_the_end_changes_no_real_token(norm_first):
    stack, x = encoder(norm_first), normal(2, 5, WIDTH)
    want = np.asarray(stack(x, attention_mask=np.ones((2, 5), bool)))
    for pads in range(1, 9):
        longer = np.concatenate([x, normal(2, pads, WIDTH, seed=pads, scale=1e4)], axis=1)
        real = np.broadcast_to(np.arange(5 + pads) < 5, (2, 5 + pads))
        got = np.asarray(stack(longer, attention_mask=real))
        np.testing.assert_allclose(got[:, :5], want, atol=1e-5, err_msg=f"{pads} pads")
        assert np.all(np.isfinite(got))


@pytest.mark.parametrize("norm_first", [False, True])
def test_later_tokens_change_nothing_behind_a_causal_mask(norm_first):
    stack, x = encoder(norm_first), normal(2, 7, WIDTH)
    want = np.asarray(stack(x, attention_mask=causal_mask(7)))
    for t in range(6):
        changed = np.concatenate([x[:, : t + 1], normal(2, 6 - t, WIDTH, seed=5, scale=9)], axis=1)
        got = np.asarray(stack(changed, attention_mask=causal_mask(7)))
        np.testing.assert_array_equal(got[:, : t + 1], want[:, : t + 1])


def test_each_row_of_a_batch_is_worked_on_by_itself():
    stack, x = encoder(), normal(5, 3, WIDTH)
    want = np.asarray(stack(x))
    for row in range(5):
        np.testing.assert_allclose(stack(x[row : row + 1])[0], want[row], atol=1e-5)
    order = [4, 2, 0, 3, 1]
    np.testing.assert_allclose(stack(x[order]), want[order], atol=1e-5)


def test_a_text_of_padding_leaves_the_others_and_the_gradients_alone():
    layer, x = encoder_layer(), normal(3, 5, WIDTH)
    real = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    got = np.asarray(layer(x, attention_mask=real).hidden)
    assert np.all(np.isfinite(got))
    np.testing.assert_allclose(got[[0, 2]], layer(x[[0, 2]], attention_mask=real[[0, 2]]).hidden, atol=1e-5)
    with tf.GradientTape() as tape:
        encoded = layer(x, attention_mask=real)
        loss = tf.reduce_sum(encoded.hidden[1] ** 2)
    gradients = dict(zip(by_name(layer), tape.gradient(loss, layer.trainable_variables), strict=True))
    for name, gradient in gradients.items():
        assert np.all(np.isfinite(gradient)), name
    for name in ("query", "key", "value"):  # nothing was attended to, so nothing is learned of it
        assert np.all(np.asarray(gradients[f"attention/{name}/kernel"]) == 0), name
    assert np.any(np.asarray(gradients["feed_forward/inner/kernel"]) != 0)


@pytest.mark.parametrize("norm_first", [False, True])
def test_eager_graph_and_xla_agree(norm_first):
    stack, x, mask = encoder(norm_first), normal(3, 5, WIDTH), mask_with_a_row_of_nothing(5)
    want = np.asarray(stack(x, attention_mask=mask))
    for jit_compile in (False, True):
        run = tf.function(lambda x, mask: stack(x, attention_mask=mask), jit_compile=jit_compile)
        np.testing.assert_allclose(run(x, mask), want, atol=1e-5, err_msg=f"jit_compile={jit_compile}")


@pytest.mark.parametrize("make", [encoder_layer, encoder])
def test_dropout_acts_in_training_only(make):
    def hidden(layer, **options):
        output = layer(x, **options)
        return np.asarray(getattr(output, "hidden", output))

    x = normal(2, 5, WIDTH)
    layer, calm = make(dropout=0.3), make(dropout=0.0)
    np.testing.assert_array_equal(hidden(layer), hidden(layer, training=False))
    assert np.abs(hidden(layer, training=True) - hidden(layer)).max() > 1e-2
    np.testing.assert_array_equal(hidden(calm, training=True), hidden(calm))
    np.testing.assert_array_equal(hidden(layer), hidden(calm))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"Use a num_heads out of \[1, 2, 7, 14\], or model_dim=15"),
        ({"inner_dim": 0}, "inner_dim=0 must be a whole number of at least 1"),
        ({"dropout": 1.5}, "dropout=1.5 must be at least 0 and below 1"),
        ({"dropout": float("nan")}, "dropout=nan must be at least 0"),
        ({"epsilon": 0.0}, "epsilon=0.0 must be finite and above 0"),
        ({"pre_norm": True}, "pre_norm"),
    ],
)
@pytest.mark.parametrize("kind", [EncoderLayer, Encoder])
def test_a_bad_argument_is_refused_by_name(kind, change, message):
    arguments = {"model_dim": WIDTH, "num_heads": HEADS, "inner_dim": INNER, **change}
    if kind is Encoder:
        arguments["num_layers"] = 3
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_a_stack_of_no_layers_is_refused():
    with pytest.raises(ValueError, match="num_layers=0 must be a whole number of at least 1"):
        Encoder(0, WIDTH, HEADS, INNER)
