import inspect
import json

import decoder_oracles
import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import by_name, randomise

from keras_transformer.distillation.taps import with_taps
from keras_transformer.models import GPT2, CausalLM, DecoderState, Prompted
from keras_transformer.models.causal_lm import POSITIONS

VOCAB, LAYERS, WIDTH, HEADS, INNER, LONGEST = 29, 2, 24, 6, 11, 13
IDS = np.array(
    [
        [5, 17, 28, 1, 9, 2, 8],
        [7, 3, 0, 0, 0, 0, 0],
        [11, 4, 21, 4, 6, 0, 0],
    ],
    dtype="int32",
)
LENGTHS = (IDS != 0).sum(1)
FORMS = [
    pytest.param({}, id="gpt2"),
    pytest.param({"positions": "sinusoidal", "norm_first": False, "activation": "relu"}, id="sinusoidal-post-relu"),
    pytest.param(
        {"positions": "rotary", "num_key_value_heads": 2, "tie_embeddings": False}, id="rotary-grouped-untied"
    ),
    pytest.param({"positions": "alibi", "num_key_value_heads": 1, "embedding_dim": 7}, id="alibi-one-key-head-factor"),
]


def causal_lm(scale=0.4, **options):
    arguments = {"max_length": LONGEST, "dropout": 0.0, **options}
    return randomise(CausalLM(VOCAB, LAYERS, WIDTH, HEADS, INNER, **arguments), scale=scale)


def oracle(model, ids):
    return decoder_oracles.causal_lm(
        ids,
        by_name(model),
        LAYERS,
        HEADS,
        positions=model.positions,
        groups=model.num_key_value_heads,
        norm_first=model.norm_first,
        activation=model.activation,
    )


def ragged(ids, lengths):
    """The first tokens of each row, padded at the end."""
    width = max(lengths)
    return np.where(np.arange(width) < np.array(lengths)[:, None], ids[:, :width], 0).astype("int32")


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_every_tap_match_the_loop_oracle(form):
    model = causal_lm(**form)
    logits, want = oracle(model, IDS)
    np.testing.assert_allclose(model(IDS), logits, atol=2e-4)
    got = keras.Model(model.input, model.tap_tensors)(IDS)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_each_step_on_the_cache_gives_the_logits_of_the_whole_sequence(form):
    """Prompts of 1 to 3 tokens in one batch, then a token a row at a time up to the longest; eagerly and in a graph."""
    model, whole = causal_lm(**form), np.random.default_rng(4).integers(1, VOCAB, (3, LONGEST), dtype="int32")
    want = np.asarray(model(whole))
    lengths = np.array([2, 1, 3])
    prompted = model.prompt(ragged(whole, lengths), room=LONGEST)
    assert isinstance(prompted, Prompted)
    assert isinstance(prompted.state, DecoderState)
    rows = np.arange(3)
    np.testing.assert_allclose(prompted.logits, want[rows, lengths - 1], atol=1e-5)
    np.testing.assert_array_equal(prompted.state.position, lengths)
    eager = graph = prompted.state
    step = tf.function(model.step)
    for place in range(LONGEST - 3):
        tokens = whole[rows, lengths + place]
        logits, graph = step(tf.constant(tokens), graph)
        np.testing.assert_allclose(logits, want[rows, lengths + place], atol=1e-5, err_msg=f"graph {place}")
        if place < 2:
            logits, own = model.step_beside(tokens, eager)
            np.testing.assert_allclose(logits, want[rows, lengths + place], atol=1e-5, err_msg=f"beside {place}")
            logits, eager = model.step(tokens, eager)
            for ours, cache in zip(own, eager.caches, strict=True):
                for part, known in zip(ours, cache, strict=True):
                    written = np.asarray(known)[rows, :, lengths + place]
                    np.testing.assert_allclose(part[:, :, 0], written, atol=1e-5)
            np.testing.assert_allclose(logits, want[rows, lengths + place], atol=1e-5, err_msg=f"step {place}")
    np.testing.assert_array_equal(graph.position, lengths + LONGEST - 3)


def test_a_zero_inside_a_prompt_is_a_token_and_those_at_its_end_are_padding():
    model, lengths = causal_lm(), np.array([3, 2, 1])
    ids = np.array([[5, 0, 7, 0, 0], [0, 3, 0, 0, 0], [4, 0, 0, 0, 0]], "int32")
    prompted = model.prompt(ids, room=7)
    np.testing.assert_array_equal(prompted.state.position, lengths)
    np.testing.assert_allclose(prompted.logits, np.asarray(model(ids))[np.arange(3), lengths - 1], atol=1e-5)
    logits, _ = model.step(np.array([8, 8, 8], "int32"), prompted.state)
    for row, length in enumerate(lengths):
        text = np.append(ids[row, :length], 8)[None]
        np.testing.assert_allclose(logits[row], np.asarray(model(text))[0, -1], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_several_new_tokens_at_once_and_taken_back_are_as_good_as_one_by_one(form):
    model, whole = causal_lm(**form), IDS[[0, 2]][:, :5]
    want = np.asarray(model(whole))
    start = model.prompt(whole[:, :1], room=7).state
    wrong, state = model.extend(whole[:, 1:4][:, ::-1], start)
    assert np.abs(np.asarray(wrong) - want[:, 1:4]).max() > 1e-2
    right, after = model.extend(whole[:, 1:], state._replace(position=start.position))
    np.testing.assert_allclose(right, want[:, 1:], atol=1e-5)
    never, clean = model.extend(whole[:, 1:], start)
    np.testing.assert_array_equal(right, never)
    tf.nest.map_structure(lambda ours, theirs: np.testing.assert_array_equal(ours, theirs), after, clean)


def test_rows_of_a_state_can_be_picked_as_a_beam_search_does():
    model, rows = causal_lm(), [2, 0, 0, 1]
    prompted = model.prompt(IDS, room=9)
    picked = tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), prompted.state)
    tokens = np.array([4, 9, 2, 7], "int32")
    logits, _ = model.step(tokens, picked)
    for row, (source, token) in enumerate(zip(rows, tokens, strict=True)):
        text = np.append(IDS[source][: LENGTHS[source]], token)[None]
        np.testing.assert_allclose(logits[row], np.asarray(model(text))[0, -1], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_padding_at_the_end_changes_no_real_token(form):
    model = causal_lm(**form)
    want, real = np.asarray(model(IDS)), IDS != 0
    for pads in (1, 6):
        longer = np.pad(IDS, ((0, 0), (0, pads)))
        np.testing.assert_allclose(np.asarray(model(longer))[:, :7][real], want[real], atol=1e-5, err_msg=f"{pads}")
        prompted = model.prompt(longer, room=LONGEST)
        np.testing.assert_allclose(prompted.logits, want[np.arange(3), LENGTHS - 1], atol=1e-5, err_msg=f"{pads}")


@pytest.mark.parametrize("form", FORMS)
def test_later_tokens_change_no_logits_before_them(form):
    model, ids = causal_lm(**form), IDS[:1]
    want = np.asarray(model(ids))
    for t in range(6):
        changed = np.concatenate([ids[:, : t + 1], ids[:, t + 1 :] % 27 + 1], axis=1)
        got = np.asarray(model(changed))
        np.testing.assert_array_equal(got[:, : t + 1], want[:, : t + 1])
        assert np.abs(got[:, t + 1 :] - want[:, t + 1 :]).max() > 1e-2


def test_each_row_of_a_batch_is_worked_on_by_itself():
    model = causal_lm()
    want = np.asarray(model(IDS))
    for order in ([0], [1], [2], [2, 0, 1]):
        np.testing.assert_allclose(model(IDS[order]), want[order], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_eager_graph_and_xla_agree(form):
    model = causal_lm(**form)
    want = np.asarray(model(IDS))
    spec = [tf.TensorSpec((None, None), tf.int32)]
    for jit_compile in (False, True):
        run = tf.function(lambda ids: model(ids), input_signature=spec, jit_compile=jit_compile)
        np.testing.assert_allclose(run(IDS), want, atol=1e-5, err_msg=f"jit_compile={jit_compile}")
    prompt = tf.function(lambda ids: model.prompt(ids, room=9), input_signature=spec)(IDS)
    np.testing.assert_allclose(prompt.logits, model.prompt(IDS, room=9).logits, atol=1e-5)
    assert prompt.state.caches[0].key.shape == (3, model.num_key_value_heads, 9, WIDTH // HEADS)
    compiled = tf.function(model.step, jit_compile=True)
    tokens = np.array([3, 1, 2], "int32")
    np.testing.assert_allclose(compiled(tokens, prompt.state)[0], model.step(tokens, prompt.state)[0], atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("form", FORMS)
def test_each_policy_gives_float32_logits_near_the_oracle_and_finite_gradients(form, policy):
    model = causal_lm(dtype=policy, scale=0.2, **form)
    want, _ = oracle(model, IDS)
    with tf.GradientTape() as tape:
        logits = model(IDS, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(IDS, logits))
    assert logits.dtype == tf.float32
    limit = {"float32": 1e-4, "mixed_bfloat16": 0.08, "mixed_float16": 0.02}[policy]
    assert np.abs(np.asarray(logits) - want).max() / np.abs(want).max() < limit
    for weight, gradient in zip(model.weights, tape.gradient(loss, model.trainable_variables), strict=True):
        assert keras.backend.standardize_dtype(weight.dtype) == "float32"
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient))), weight.path
    prompted = model.prompt(IDS, room=9)
    assert prompted.logits.dtype == tf.float32
    assert keras.backend.standardize_dtype(prompted.state.caches[0].key.dtype) == policy.removeprefix("mixed_")
    stepped, _ = model.step(np.array([3, 1, 2], "int32"), prompted.state)
    follow = np.pad(IDS, ((0, 0), (0, 1)))
    follow[np.arange(3), LENGTHS] = [3, 1, 2]
    full = np.asarray(model(follow))[np.arange(3), LENGTHS]
    assert np.abs(np.asarray(stepped) - full).max() / np.abs(full).max() < limit


def test_a_text_of_padding_leaves_the_others_and_the_gradients_alone():
    model, ids = causal_lm(), np.concatenate([IDS, np.zeros((1, 7), "int32")])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(ids) ** 2)
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient)))
    np.testing.assert_allclose(np.asarray(model(ids))[:3], model(IDS), atol=1e-5)


def test_dropout_acts_in_training_only():
    model, calm = causal_lm(dropout=0.3), causal_lm()
    quiet = np.asarray(model(IDS))
    np.testing.assert_array_equal(model(IDS, training=False), quiet)
    assert np.abs(np.asarray(model(IDS, training=True)) - quiet).max() > 1e-2
    np.testing.assert_array_equal(calm(IDS, training=True), quiet)
    model.get_layer("embeddings_dropout").rate = 0
    assert np.abs(np.asarray(model(IDS, training=True)) - quiet).max() > 1e-2, "the layers have dropout of their own"


def test_a_distiller_is_told_which_tokens_are_real():
    outputs = with_taps(causal_lm(), ["decoder/1/attention"])(IDS)
    np.testing.assert_array_equal(outputs.mask, IDS != 0)
    assert outputs.taps["decoder/1/attention"].shape == (3, HEADS, 7, 7)


def test_the_longest_input_works_and_one_token_more_is_refused():
    model = causal_lm()
    assert model(np.ones((2, LONGEST), "int32")).shape == (2, LONGEST, VOCAB)
    with pytest.raises(ValueError, match=r"14 positions from 0 on don't fit a table of max_length=13"):
        model(np.ones((2, LONGEST + 1), "int32"))
    assert causal_lm(positions="rotary")(np.ones((1, 3 * LONGEST), "int32")).shape == (1, 3 * LONGEST, VOCAB)


def test_a_room_that_is_too_small_or_has_no_positions_is_refused():
    model = causal_lm()
    with pytest.raises(ValueError, match=r"a prompt of 7 tokens doesn't fit into room=6\. Use room=7 plus"):
        model.prompt(IDS, room=6)
    with pytest.raises(ValueError, match=r"room=14 is more than the max_length=13 .* Use room=13 or less, or build"):
        model.prompt(IDS, room=14)
    with pytest.raises(ValueError, match="room=0 must be a whole number"):
        model.prompt(IDS, room=0)
    with pytest.raises(ValueError, match=r"a prompt of 0 tokens .* Begin each text with a token"):
        model.prompt(IDS[:, :0], room=5)
    full = model.prompt(IDS[:1], room=7).state
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.step(np.array([1], "int32"), full)


def test_every_argument_is_an_attribute_and_comes_back_from_the_config():
    arguments = {
        "vocab_size": VOCAB,
        "num_layers": LAYERS,
        "model_dim": WIDTH,
        "num_heads": HEADS,
        "inner_dim": INNER,
        "max_length": LONGEST,
        "embedding_dim": 5,
        "dropout": 0.25,
        "activation": "relu",
        "norm_first": False,
        "epsilon": 1e-3,
        "positions": "rotary",
        "head_dim": 8,
        "num_key_value_heads": 3,
        "tie_embeddings": False,
        "ranks": {"decoder_0/feed_forward/outer": 2, "logits": 3},
        "name": "chosen",
    }
    parameters = inspect.signature(CausalLM.__init__).parameters
    assert set(arguments) == set(parameters) - {"self", "dtype"}
    model = CausalLM(**arguments, dtype="mixed_bfloat16")
    config = json.loads(json.dumps(model.get_config()))
    for name, value in arguments.items():
        assert value != parameters[name].default, f"{name} is at its default: a config that forgets it would pass"
        assert getattr(model, name) == value, name
        assert config[name] == value, name
    again = CausalLM.from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]
    with pytest.raises(AttributeError, match="CausalLM has no attribute 'num_head'"):
        _ = model.num_head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be a whole number of at least 1"),
        ({"num_layers": 0}, "num_layers=0 must be a whole number of at least 1"),
        ({"num_heads": 5}, r"Use a num_heads out of \[1, 2, 3, 4, 6, 8, 12, 24\]"),
        ({"max_length": 0}, "max_length=0 must be a whole number"),
        ({"dropout": 1}, "dropout=1 must be at least 0 and below 1"),
        ({"positions": "rotery"}, r"positions='rotery' must be one of .* Did you mean positions='rotary'"),
        ({"positions": "rotary", "num_heads": 8}, r"head_dim=3 is odd"),
        ({"num_key_value_heads": 4}, "num_heads=6 can't share num_key_value_heads=4"),
    ],
)
def test_a_bad_argument_is_refused_by_name(change, message):
    arguments = {"vocab_size": VOCAB, "num_layers": LAYERS, "model_dim": WIDTH, "num_heads": HEADS}
    with pytest.raises(ValueError, match=message):
        CausalLM(**{**arguments, "inner_dim": INNER, **change})


def test_the_number_of_weights_is_that_of_gpt2():
    """124,439,808 of the released model of 12 layers; here the same sum on small numbers."""

    def count(vocab, longest, layers, width, inner):
        layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
        return (vocab + longest) * width + layers * layer + 2 * width

    size = GPT2.arguments()
    assert count(50257, 1024, size["num_layers"], size["model_dim"], size["inner_dim"]) == 124_439_808
    model = causal_lm()
    assert model.count_params() == count(VOCAB, LONGEST, LAYERS, WIDTH, INNER)
    assert len(model.weights) == len({id(weight) for weight in model.weights})
    assert causal_lm(tie_embeddings=False).count_params() == model.count_params() + VOCAB * WIDTH


@pytest.mark.parametrize("positions", POSITIONS)
def test_files_give_the_model_back(positions, tmp_path):
    model = causal_lm(positions=positions, num_key_value_heads=3)
    model.get_layer("tokens").trainable = False
    model.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras")
    assert type(loaded) is CausalLM
    assert not loaded.get_layer("tokens").trainable
    np.testing.assert_array_equal(loaded(IDS), model(IDS))
    np.testing.assert_array_equal(loaded.prompt(IDS, room=9).logits, model.prompt(IDS, room=9).logits)
    clone = keras.models.clone_model(model)
    assert np.abs(np.asarray(clone(IDS)) - np.asarray(model(IDS))).max() > 1e-2
    model.save_weights(tmp_path / "lm.weights.h5")
    clone.load_weights(tmp_path / "lm.weights.h5")
    np.testing.assert_array_equal(clone(IDS), model(IDS))
