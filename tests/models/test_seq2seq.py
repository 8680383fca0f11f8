import inspect
import json

import decoder_oracles
import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import by_name, randomise

from keras_transformer.distillation.taps import with_taps
from keras_transformer.models import BASE, BIG, Seq2Seq

VOCAB, LAYERS, WIDTH, HEADS, INNER, START = 29, 2, 24, 6, 11, 2
SOURCE = np.array([[5, 17, 28, 1, 9], [7, 3, 0, 0, 0], [11, 4, 21, 0, 0]], dtype="int32")
TARGET = np.array([[2, 8, 3, 12, 9, 4, 6], [2, 19, 4, 0, 0, 0, 0], [2, 3, 28, 7, 7, 0, 0]], dtype="int32")
INPUTS = {"source_ids": SOURCE, "target_ids": TARGET}
FORMS = [
    pytest.param({}, id="post"),
    pytest.param(
        {
            "norm_first": True,
            "num_decoder_layers": 1,
            "embedding_dim": 7,
            "num_key_value_heads": 2,
            "activation": "gelu_tanh",
        },
        id="pre-shallow-factor-grouped",
    ),
    pytest.param({"tie_embeddings": False}, id="untied"),
]


def seq2seq(scale=0.3, **options):
    return randomise(Seq2Seq(VOCAB, LAYERS, WIDTH, HEADS, INNER, **{"dropout": 0.0, **options}), scale=scale)


def oracle(model):
    return decoder_oracles.seq2seq(
        SOURCE,
        TARGET,
        by_name(model),
        LAYERS,
        HEADS,
        model.num_decoder_layers,
        model.num_key_value_heads,
        model.norm_first,
        model.activation,
    )


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_every_tap_match_the_loop_oracle(form):
    model = seq2seq(**form)
    logits, want = oracle(model)
    np.testing.assert_allclose(model(INPUTS), logits, atol=3e-4)
    got = keras.Model(model.input, model.tap_tensors)(INPUTS)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=3e-4, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_each_step_on_the_cache_gives_the_logits_of_the_whole_target(form):
    model, rows = seq2seq(**form), np.arange(3)
    target = np.where(TARGET == 0, 5, TARGET)
    want = np.asarray(model({"source_ids": SOURCE, "target_ids": target}))
    prompted = model.prompt(SOURCE, room=11, start_id=START)
    np.testing.assert_allclose(prompted.logits, want[:, 0], atol=1e-5)
    step, state = tf.function(model.step), prompted.state
    beside = tf.function(model.step_beside)
    for place in range(1, 7):
        logits, own = beside(tf.constant(target[:, place]), state)
        np.testing.assert_allclose(logits, want[:, place], atol=1e-5, err_msg=f"beside {place}")
        assert [part.shape[2] for known in own for part in known] == [1, 1] * len(state.caches)
        logits, state = step(tf.constant(target[:, place]), state)
        np.testing.assert_allclose(logits, want[:, place], atol=1e-5, err_msg=f"step {place}")
    back = np.array([1, 4, 2], "int32")  # each row takes back as many tokens as it likes
    tokens = np.stack([target[row, back[row] : back[row] + 3] for row in rows])
    logits, state = model.extend(tokens, state._replace(position=back))
    for row in rows:
        np.testing.assert_allclose(logits[row], want[row, back[row] : back[row] + 3], atol=1e-5)
    np.testing.assert_array_equal(state.position, back + 3)


def test_the_memory_is_computed_once_and_only_read_by_a_step():
    model = seq2seq()
    prompted = model.prompt(SOURCE, room=7, start_id=START)
    _, state = model.step(np.array([3, 4, 5], "int32"), prompted.state)
    assert state.memory is prompted.state.memory
    graph = tf.function(model.step).get_concrete_function(tf.TensorSpec((3,), tf.int32), prompted.state)
    names = {variable.name.removesuffix(":0") for variable in graph.variables}
    assert "decoder_0/cross_attention/query/kernel" in names
    assert not {name for name in names if "cross_attention/key" in name or name.startswith("encoder_")}


@pytest.mark.parametrize("form", FORMS)
def test_padding_of_source_and_target_changes_no_real_token(form):
    model, real = seq2seq(**form), TARGET != 0
    want = np.asarray(model(INPUTS))[real]
    for pads in (1, 8):
        source, target = (np.pad(ids, ((0, 0), (0, pads))) for ids in (SOURCE, TARGET))
        got = np.asarray(model({"source_ids": source, "target_ids": target}))[:, :7][real]
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=f"{pads} pads")
    padded = model.prompt(np.pad(SOURCE, ((0, 0), (0, 3))), room=3, start_id=START)
    np.testing.assert_allclose(padded.logits, model.prompt(SOURCE, room=3, start_id=START).logits, atol=1e-5)


def test_a_token_hears_the_whole_source_and_no_later_target():
    model = seq2seq()
    want = np.asarray(model(INPUTS))
    for t in range(6):
        target = TARGET.copy()
        target[:, t + 1 :] = target[:, t + 1 :] % 27 + 1
        got = np.asarray(model({**INPUTS, "target_ids": target}))
        np.testing.assert_array_equal(got[:, : t + 1], want[:, : t + 1])
    for place in range(5):
        source = SOURCE.copy()
        source[0, place] = 13
        got = np.asarray(model({**INPUTS, "source_ids": source}))
        assert np.abs(got[0] - want[0]).max(-1).min() > 1e-4  # each position of row 0
        np.testing.assert_allclose(got[1:], want[1:], atol=1e-5)


def test_each_row_of_a_batch_is_worked_on_by_itself():
    model = seq2seq()
    want = np.asarray(model(INPUTS))
    for order in ([0], [1], [2], [2, 0, 1]):
        got = model({"source_ids": SOURCE[order], "target_ids": TARGET[order]})
        np.testing.assert_allclose(got, want[order], atol=1e-5)


@pytest.mark.parametrize("form", FORMS[:2])
def test_eager_graph_and_xla_agree(form):
    model = seq2seq(**form)
    want = np.asarray(model(INPUTS))
    spec = [{name: tf.TensorSpec((None, None), tf.int32) for name in INPUTS}]
    for jit_compile in (False, True):
        run = tf.function(lambda inputs: model(inputs), input_signature=spec, jit_compile=jit_compile)
        np.testing.assert_allclose(run(INPUTS), want, atol=1e-5, err_msg=f"jit_compile={jit_compile}")
    prompt = tf.function(
        lambda ids: model.prompt(ids, room=9, start_id=START), input_signature=[tf.TensorSpec((None, None), tf.int32)]
    )
    np.testing.assert_allclose(prompt(SOURCE).logits, want[:, 0], atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("form", FORMS)
def test_each_policy_gives_float32_logits_near_the_oracle_and_finite_gradients(form, policy):
    model = seq2seq(dtype=policy, scale=0.2, **form)
    want, _ = oracle(model)
    with tf.GradientTape() as tape:
        logits = model(INPUTS, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(TARGET, logits))
    assert logits.dtype == tf.float32
    limit = {"float32": 1e-4, "mixed_bfloat16": 0.08, "mixed_float16": 0.02}[policy]
    assert np.abs(np.asarray(logits) - want).max() / np.abs(want).max() < limit
    for weight, gradient in zip(model.weights, tape.gradient(loss, model.trainable_variables), strict=True):
        assert keras.backend.standardize_dtype(weight.dtype) == "float32"
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient))), weight.path
    prompted = model.prompt(SOURCE, room=9, start_id=START)
    assert prompted.logits.dtype == tf.float32
    assert np.abs(np.asarray(prompted.logits) - want[:, 0]).max() / np.abs(want).max() < limit


def test_a_source_of_padding_gives_finite_numbers_and_leaves_the_others_alone():
    model, source = seq2seq(), SOURCE.copy()
    source[1] = 0
    with tf.GradientTape() as tape:
        logits = model({**INPUTS, "source_ids": source})
        loss = tf.reduce_mean(logits**2)
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient)))
    np.testing.assert_allclose(np.asarray(logits)[[0, 2]], np.asarray(model(INPUTS))[[0, 2]], atol=1e-5)


def test_dropout_acts_in_training_only():
    model, calm = seq2seq(dropout=0.3), seq2seq()
    quiet = np.asarray(model(INPUTS))
    np.testing.assert_array_equal(model(INPUTS, training=False), quiet)
    assert np.abs(np.asarray(model(INPUTS, training=True)) - quiet).max() > 1e-2
    np.testing.assert_array_equal(calm(INPUTS, training=True), quiet)
    for side in ("encoder", "decoder"):
        one = seq2seq(dropout=0.3)
        one.get_layer("embeddings_dropout").rate = 0
        for layer in one.layers:
            if layer.name.startswith({"encoder": "decoder_", "decoder": "encoder_"}[side]):
                layer.residual_dropout.rate = layer.attention.weight_dropout.rate = 0
                if side == "encoder":
                    layer.cross_attention.weight_dropout.rate = 0
        assert np.abs(np.asarray(one(INPUTS, training=True)) - quiet).max() > 1e-2, side


def test_a_distiller_is_told_which_target_tokens_are_real_and_a_batch_may_hold_more():
    outputs = with_taps(seq2seq(), ["decoder/1/cross_attention"])({**INPUTS, "teacher_logits": np.zeros(3)})
    np.testing.assert_array_equal(outputs.mask, TARGET != 0)
    weights = np.asarray(outputs.taps["decoder/1/cross_attention"])
    assert weights.shape == (3, HEADS, 7, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert np.all(weights[np.broadcast_to((SOURCE == 0)[:, None, None], weights.shape)] == 0)
    model = seq2seq()
    np.testing.assert_array_equal(model({**INPUTS, "teacher_logits": np.zeros(3)}), model(INPUTS))


def parameters(vocab, layers, width, inner):
    """Section 3 of the paper: table, attentions with biases, feed-forward parts and LayerNorms."""
    attention, feed_forward, norm = 4 * (width**2 + width), 2 * width * inner + inner + width, 2 * width
    return vocab * width + layers * (3 * attention + 2 * feed_forward + 5 * norm)


def test_base_and_big_have_the_number_of_weights_of_the_closed_formula():
    of_base, of_big = (parameters(37_000, size.num_layers, size.model_dim, size.inner_dim) for size in (BASE, BIG))
    assert (round(of_base / 1e6, 1), round(of_big / 1e6, 1)) == (63.1, 214.2)
    assert Seq2Seq(37_000, **BASE.arguments()).count_params() == of_base
    model = seq2seq()
    assert model.count_params() == parameters(VOCAB, LAYERS, WIDTH, INNER)
    assert len(model.weights) == len({id(weight) for weight in model.weights})


def test_every_argument_is_an_attribute_and_comes_back_from_the_config():
    arguments = {
        "vocab_size": VOCAB,
        "num_layers": LAYERS,
        "model_dim": WIDTH,
        "num_heads": HEADS,
        "inner_dim": INNER,
        "num_decoder_layers": 1,
        "embedding_dim": 5,
        "dropout": 0.25,
        "activation": "gelu_tanh",
        "norm_first": True,
        "epsilon": 1e-3,
        "head_dim": 8,
        "num_key_value_heads": 3,
        "tie_embeddings": False,
        "ranks": {"encoder_0/attention/query": 2, "decoder_0/cross_attention/key": 3, "logits": 2},
        "name": "chosen",
    }
    given = inspect.signature(Seq2Seq.__init__).parameters
    assert set(arguments) == set(given) - {"self", "dtype"}
    model = Seq2Seq(**arguments, dtype="mixed_bfloat16")
    config = json.loads(json.dumps(model.get_config()))
    for name, value in arguments.items():
        assert value != given[name].default, f"{name} is at its default: a config that forgets it would pass"
        assert getattr(model, name) == value, name
        assert config[name] == value, name
    again = Seq2Seq.from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be a whole number of at least 1"),
        ({"num_layers": 0}, "num_layers=0 must be a whole number of at least 1"),
        ({"num_decoder_layers": 0}, "num_decoder_layers=0 must be a whole number of at least 1"),
        ({"num_heads": 5}, r"Use a num_heads out of \[1, 2, 3, 4, 6, 8, 12, 24\]"),
        ({"dropout": 1}, "dropout=1 must be at least 0 and below 1"),
    ],
)
def test_a_bad_argument_is_refused_by_name(change, message):
    arguments = {"vocab_size": VOCAB, "num_layers": LAYERS, "model_dim": WIDTH, "num_heads": HEADS}
    with pytest.raises(ValueError, match=message):
        Seq2Seq(**{**arguments, "inner_dim": INNER, **change})


def test_a_start_token_of_padding_and_no_room_are_refused():
    model = seq2seq()
    with pytest.raises(ValueError, match="start_id=0 must be a whole number of at least 1"):
        model.prompt(SOURCE, room=5, start_id=0)
    with pytest.raises(ValueError, match="room=0 must be a whole number of at least 1"):
        model.prompt(SOURCE, room=0, start_id=START)


@pytest.mark.parametrize("form", FORMS)
def test_files_give_the_model_back(form, tmp_path):
    model = seq2seq(**form)
    model.get_layer("encoder_1").trainable = False
    model.save(tmp_path / "translator.keras")
    loaded = keras.saving.load_model(tmp_path / "translator.keras")
    assert type(loaded) is Seq2Seq
    assert not loaded.get_layer("encoder_1").trainable
    np.testing.assert_array_equal(loaded(INPUTS), model(INPUTS))
    clone = keras.models.clone_model(model)
    assert np.abs(np.asarray(clone(INPUTS)) - np.asarray(model(INPUTS))).max() > 1e-2
    model.save_weights(tmp_path / "translator.weights.h5")
    clone.load_weights(tmp_path / "translator.weights.h5")
    np.testing.assert_array_equal(clone(INPUTS), model(INPUTS))
    part = keras.Model(model.input, model.tap_tensors["decoder/0/cross_attention"])
    part.save(tmp_path / "part.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "part.keras")(INPUTS), part(INPUTS))


def test_one_batch_is_learned_by_heart():
    model = Seq2Seq(VOCAB, 1, WIDTH, HEADS, INNER, dropout=0.0)
    labels = np.pad(TARGET[:, 1:], ((0, 0), (0, 1)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    batches = tf.data.Dataset.from_tensors((INPUTS, labels)).repeat(200)
    before = float(loss(labels, model(INPUTS)))
    model.fit(batches, shuffle=False, verbose=0)
    assert before > 1
    assert float(loss(labels, model(INPUTS))) < 0.05
