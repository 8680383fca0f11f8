import decoder_oracles
import numpy as np
import oracles
import pytest
import tensorflow as tf
from weights import by_name, normal, randomise

from keras_transformer.layers import (
    Decoder,
    DecoderLayer,
    KeyValues,
    alibi_biases,
    causal_mask,
    empty_key_values,
    padding_mask,
    rotary_table,
    sliding_window_mask,
)

WIDTH, HEADS, INNER, GROUPS = 24, 6, 11, 2
MEMORY_MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
FORMS = [
    pytest.param({"norm_first": True}, None, id="pre"),
    pytest.param({"cross_attention": True}, None, id="post-cross"),
    pytest.param({"norm_first": True, "cross_attention": True, "num_key_value_heads": 2}, None, id="pre-cross-grouped"),
    pytest.param({"num_key_value_heads": 2}, "rotary", id="post-grouped-rotary"),
    pytest.param({"norm_first": True, "num_key_value_heads": 1}, "alibi", id="pre-one-key-head-alibi"),
]


def decoder(kind=Decoder, activation="gelu_tanh", **options):
    numbers = (3, WIDTH, HEADS, INNER) if kind is Decoder else (WIDTH, HEADS, INNER)
    layer = kind(*numbers, activation=activation, **{"dropout": 0.0, **options})
    crossed = options.get("cross_attention")
    layer.build((None, None, WIDTH), (None, None, 7) if crossed else None)
    return randomise(layer)


def inputs(options, length=7):
    """A decoder's x, its memory of another width or None, and the masks."""
    memory = normal(3, 5, 7, seed=2) if options.get("cross_attention") else None
    masks = {"attention_mask": causal_mask(length)}
    if memory is not None:
        masks["memory_mask"] = MEMORY_MASK
    return normal(3, length, WIDTH, seed=1), memory, masks


def placing(positions, length, start=0, num_keys=None):
    """The arguments that tell a layer of rotary positions or ALiBi."""
    if positions == "rotary":
        return {"rotation": rotary_table(length, WIDTH // HEADS, start)}
    if positions == "alibi":
        return {"score_bias": alibi_biases(HEADS, length, num_keys or length, start)}
    return {}


@pytest.mark.parametrize(("options", "positions"), FORMS)
def test_a_layer_matches_the_loop_oracle(options, positions):
    layer = decoder(DecoderLayer, **options)
    x, memory, masks = inputs(options)
    want = decoder_oracles.decoder_layer(
        x,
        by_name(layer),
        HEADS,
        memory=memory,
        memory_mask=MEMORY_MASK,
        mask=decoder_oracles.causal(3, 7),
        groups=options.get("num_key_value_heads"),
        positions=positions,
        norm_first=options.get("norm_first", False),
    )
    got = layer(x, memory, **masks, **placing(positions, 7))
    assert got._fields == decoder_oracles.PARTS
    for name, ours, theirs in zip(got._fields, got, want, strict=True):
        if theirs is None:
            assert ours == ()
        else:
            np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=name)


def test_activation_and_epsilon_reach_their_places():
    layer, x = decoder(DecoderLayer, activation="relu", epsilon=0.25), normal(3, 5, WIDTH)
    want = decoder_oracles.decoder_layer(x, by_name(layer), HEADS, activation="relu", epsilon=0.25)
    np.testing.assert_allclose(layer(x).hidden, want[0], atol=5e-5)


def test_only_a_pre_norm_stack_ends_with_a_norm():
    stack, x = decoder(norm_first=True), normal(2, 5, WIDTH)
    want, weights = x.astype("float64"), by_name(stack)
    for index in range(3):
        layer = oracles.below(weights, f"layer_{index}")
        want = decoder_oracles.decoder_layer(want, layer, HEADS, norm_first=True)[0]
    want = oracles.layer_norm(want, weights["final_norm/gamma"], weights["final_norm/beta"], 1e-5)
    np.testing.assert_allclose(stack(x), want, atol=1e-4)
    assert "final_norm/gamma" not in by_name(decoder())


@pytest.mark.parametrize(("options", "positions"), FORMS)
def test_tokens_on_a_cache_give_what_the_whole_sequence_gives(options, positions):
    """Rows of unlike lengths: row b knows b tokens more, and the new ones come one by one or three at once."""
    stack = decoder(**options)
    x, memory, masks = inputs(options)
    want = np.asarray(stack(x, memory, **masks, **placing(positions, 7)))
    remembered = {} if memory is None else {"memory": stack.remember(memory), "memory_mask": MEMORY_MASK}
    known = np.arange(3, dtype="int32")
    caches = [empty_key_values(3, stack.num_key_value_heads, 11, WIDTH // HEADS, "float32")] * 3

    def extend(tokens, caches, position):
        placed = placing(positions, tokens.shape[1], position, num_keys=11)
        return stack.extend(tokens, caches, position, **remembered, **placed)

    def columns(array, first, length):
        return np.stack([array[b, first[b] : first[b] + length] for b in range(3)])

    _, caches = extend(x[:, :2], caches, np.zeros(3, "int32"))  # rows 0 and 1 forget the surplus: a smaller position
    steps, in_graph = caches, tf.function(extend)
    for step in range(5):
        hidden, steps = in_graph(columns(x, known + step, 1), steps, tf.constant(known + step))
        np.testing.assert_allclose(hidden, columns(want, known + step, 1), atol=1e-5, err_msg=f"step {step}")
    for first in (0, 2):
        hidden, caches = extend(columns(x, known + first, 3), caches, known + first)
        np.testing.assert_allclose(hidden, columns(want, known + first, 3), atol=1e-5, err_msg=f"from {first}")


@pytest.mark.parametrize(("options", "positions"), FORMS)
def test_a_token_beside_a_cache_gives_what_it_gives_on_one(options, positions):
    """Rows of unlike lengths, the first of which knows nothing; what lies behind them is garbage."""
    stack = decoder(**options)
    x, memory, _ = inputs(options, length=1)
    remembered = {} if memory is None else {"memory": stack.remember(memory), "memory_mask": MEMORY_MASK}
    known = np.array([0, 4, 9], dtype="int32")
    parts = [1e4 * normal(3, stack.num_key_value_heads, 11, WIDTH // HEADS, seed=7 + part) for part in range(6)]
    for part in parts:
        for row, length in enumerate(known):
            part[row, :, :length] /= 1e4
    caches = [KeyValues(*parts[index : index + 2]) for index in (0, 2, 4)]
    placed = placing(positions, 1, known, num_keys=11)
    want, written = stack.extend(x, caches, known, **remembered, **placed)
    got, own = stack.extend(x, caches, known, beside=True, **remembered, **placed)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for ours, theirs in zip(own, written, strict=True):
        assert ours.key.shape == ours.value.shape == (3, stack.num_key_value_heads, 1, WIDTH // HEADS)
        for row, place in enumerate(known):
            np.testing.assert_allclose(ours.key[row, :, 0], theirs.key[row, :, place], atol=1e-5)
            np.testing.assert_allclose(ours.value[row, :, 0], theirs.value[row, :, place], atol=1e-5)


def test_several_tokens_beside_a_cache_are_refused():
    stack = decoder()
    caches = [empty_key_values(3, HEADS, 11, WIDTH // HEADS, "float32")] * 3
    with pytest.raises(
        ValueError, match=r"2 new tokens a row beside a cache: .* Pass one, \(B, 1, D\), or use beside=F"
    ):
        stack.extend(normal(3, 2, WIDTH), caches, np.zeros(3, "int32"), beside=True)


@pytest.mark.parametrize(("options", "positions"), FORMS)
def test_later_tokens_change_nothing_before_them(options, positions):
    stack = decoder(**options)
    x, memory, masks = inputs(options)
    placed = placing(positions, 7)
    want = np.asarray(stack(x, memory, **masks, **placed))
    for t in range(6):
        changed = np.concatenate([x[:, : t + 1], normal(3, 6 - t, WIDTH, seed=5, scale=9)], axis=1)
        got = np.asarray(stack(changed, memory, **masks, **placed))
        np.testing.assert_array_equal(got[:, : t + 1], want[:, : t + 1])
        assert np.abs(got[:, t + 1 :] - want[:, t + 1 :]).max() > 1e-4


def test_a_window_hides_what_lies_further_back():
    layer, x = decoder(DecoderLayer), normal(3, 7, WIDTH)
    changed = x.copy()
    changed[:, 0] = 9
    want, got = (np.asarray(layer(each, attention_mask=sliding_window_mask(7, 3)).hidden) for each in (x, changed))
    np.testing.assert_array_equal(got[:, 3:], want[:, 3:])
    assert np.abs(got[:, 2] - want[:, 2]).max() > 1e-3


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_of_target_and_memory_changes_no_real_token(norm_first):
    stack = decoder(norm_first=norm_first, cross_attention=True)
    x, memory, _ = inputs({"cross_attention": True})
    real = np.ones((3, 7), "int32")
    want = np.asarray(stack(x, memory, attention_mask=causal_mask(7), memory_mask=np.ones((3, 5), bool)))
    for pads in range(1, 9):
        longer = np.concatenate([x, normal(3, pads, WIDTH, seed=pads, scale=1e4)], axis=1)
        wider = np.concatenate([memory, normal(3, pads, 7, seed=pads, scale=1e4)], axis=1)
        allowed = np.logical_and(padding_mask(np.pad(real, ((0, 0), (0, pads)))), causal_mask(7 + pads))
        seen = np.broadcast_to(np.arange(5 + pads) < 5, (3, 5 + pads))
        got = np.asarray(stack(longer, wider, attention_mask=allowed, memory_mask=seen))
        np.testing.assert_allclose(got[:, :7], want, atol=1e-5, err_msg=f"{pads} pads")
        assert np.all(np.isfinite(got))


def test_each_row_of_a_batch_is_worked_on_by_itself():
    stack = decoder(cross_attention=True)
    x, memory, masks = inputs({"cross_attention": True})
    want = np.asarray(stack(x, memory, **masks))
    for order in ([0], [1], [2], [2, 0, 1]):
        masks["memory_mask"] = MEMORY_MASK[order]
        np.testing.assert_allclose(stack(x[order], memory[order], **masks), want[order], atol=1e-5)


def test_a_memory_of_padding_leaves_gradients_finite_and_teaches_nothing():
    layer = decoder(DecoderLayer, cross_attention=True)
    x, memory, masks = inputs({"cross_attention": True})
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, memory, **masks).hidden[2] ** 2)
    gradients = dict(zip(by_name(layer), tape.gradient(loss, layer.trainable_variables), strict=True))
    for name, gradient in gradients.items():
        assert np.all(np.isfinite(gradient)), name
    assert np.all(np.asarray(gradients["cross_attention/key/kernel"]) == 0)
    assert np.any(np.asarray(gradients["attention/key/kernel"]) != 0)


def test_eager_graph_and_xla_agree():
    stack = decoder(cross_attention=True, num_key_value_heads=2)
    x, memory, masks = inputs({"cross_attention": True})
    placed = placing("rotary", 7)
    want = np.asarray(stack(x, memory, **masks, **placed))
    for jit_compile in (False, True):
        run = tf.function(lambda x, memory: stack(x, memory, **masks, **placed), jit_compile=jit_compile)
        np.testing.assert_allclose(run(x, memory), want, atol=1e-5, err_msg=f"jit_compile={jit_compile}")


def test_dropout_acts_in_training_only():
    x, memory, masks = inputs({"cross_attention": True})
    layer, calm = decoder(cross_attention=True, dropout=0.3), decoder(cross_attention=True)
    quiet = np.asarray(layer(x, memory, **masks))
    np.testing.assert_array_equal(layer(x, memory, **masks, training=False), quiet)
    assert np.abs(np.asarray(layer(x, memory, **masks, training=True)) - quiet).max() > 1e-2
    np.testing.assert_array_equal(calm(x, memory, **masks, training=True), quiet)


def test_far_rotations_and_biases_are_not_rounded_to_the_policy():
    """In bfloat16 position 256 and 257 would be one, and a bias of -257 one of -256."""
    layer, x = decoder(DecoderLayer, dtype="mixed_bfloat16"), normal(3, 2, WIDTH)
    near, far = (layer(x, score_bias=alibi_biases(HEADS, 2, 2) - shift).attention for shift in (0.0, 257.0))
    np.testing.assert_allclose(tf.cast(far, "float32"), tf.cast(near, "float32"), atol=5e-3)


@pytest.mark.parametrize("norm_first", [False, True])
def test_float32_tokens_on_a_half_precision_cache_are_those_of_the_whole_sequence(norm_first):
    stack, x = decoder(norm_first=norm_first, dtype="mixed_bfloat16"), normal(3, 5, WIDTH)
    want = stack(x, attention_mask=causal_mask(5))
    caches = [empty_key_values(3, HEADS, 7, WIDTH // HEADS, "bfloat16")] * 3
    got, caches = stack.extend(x, caches, np.zeros(3, "int32"))
    assert got.dtype == want.dtype == caches[0].key.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(got, "float32"), tf.cast(want, "float32"), atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, r"Use a num_heads out of \[1, 2, 3, 4, 6, 8, 12, 24\], or model_dim=25"),
        ({"inner_dim": 0}, "inner_dim=0 must be a whole number of at least 1"),
        ({"dropout": 1.5}, "dropout=1.5 must be at least 0 and below 1"),
        ({"epsilon": 0.0}, "epsilon=0.0 must be finite and above 0"),
        ({"num_key_value_heads": 4}, "num_heads=6 can't share num_key_value_heads=4"),
    ],
)
@pytest.mark.parametrize("kind", [DecoderLayer, Decoder])
def test_a_bad_argument_is_refused_by_name(kind, change, message):
    arguments = {"model_dim": WIDTH, "num_heads": HEADS, "inner_dim": INNER, **change}
    if kind is Decoder:
        arguments["num_layers"] = 3
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_a_stack_of_no_layers_is_refused():
    with pytest.raises(ValueError, match="num_layers=0 must be a whole number of at least 1"):
        Decoder(0, WIDTH, HEADS, INNER)


def test_a_memory_that_is_missing_or_of_no_use_is_refused():
    x = normal(2, 5, WIDTH)
    with pytest.raises(ValueError, match=r"cross_attention=True and was given no memory\. Pass the encoder's output"):
        decoder(DecoderLayer, cross_attention=True)(x)
    with pytest.raises(ValueError, match=r"cross_attention=False and was given a memory\. Pass none, or build .*=True"):
        decoder(DecoderLayer)(x, x)
    with pytest.raises(ValueError, match="cross_attention=False and was given a memory"):
        decoder(DecoderLayer).remember(x)
