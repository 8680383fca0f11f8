import inspect
import json
from itertools import pairwise

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from weights import by_name, randomise

from keras_transformer import models
from keras_transformer.models import TINY, TextClassifier

VOCAB, CLASSES, LAYERS, WIDTH, HEADS, INNER, LONGEST = 29, 3, 2, 14, 7, 11, 13
IDS = np.array(
    [
        [5, 17, 28, 1, 9],
        [7, 3, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [11, 0, 0, 0, 0],
    ],
    dtype="int32",
)
FORMS = [
    pytest.param({}, id="mean-post"),
    pytest.param(
        {"pooling": "first", "norm_first": True, "embedding_dim": 5, "kept_pieces": 17}, id="first-pre-factorised-cut"
    ),
    pytest.param({"head_dim": 3}, id="heads-that-do-not-fill-the-width"),
]


def classifier(weights_seed=3, scale=0.4, **options):
    arguments = {"max_length": LONGEST, "dropout": 0.0, **options}
    model = TextClassifier(VOCAB, CLASSES, LAYERS, WIDTH, HEADS, INNER, **arguments)
    randomise(model, weights_seed, scale)
    if model.kept_pieces is not None:
        model.get_layer("tokens").piece_row.assign(np.arange(VOCAB) * 5 % model.kept_pieces)
    return model


def oracle(model, ids=IDS):
    return oracles.text_classifier(ids, by_name(model), LAYERS, HEADS, model.pooling, model.norm_first)


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_every_tap_match_the_loop_oracle(form):
    model = classifier(**form)
    logits, want = oracle(model)
    np.testing.assert_allclose(model(IDS), logits, atol=1e-4)
    got = keras.Model(model.input, model.tap_tensors)(IDS)
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-4, err_msg=name)


def test_taps_have_their_names_and_shapes():
    taps = classifier().tap_tensors
    width = WIDTH // HEADS
    shapes = {"mask": (None, None), "embeddings": (None, None, WIDTH), "pooled": (None, WIDTH)}
    for index in range(LAYERS):
        shapes[f"encoder/{index}/hidden"] = (None, None, WIDTH)
        shapes[f"encoder/{index}/attention"] = (None, HEADS, None, None)
        for part in ("query", "key", "value"):
            shapes[f"encoder/{index}/{part}"] = (None, HEADS, None, width)
    assert {name: tensor.shape for name, tensor in taps.items()} == shapes


def test_attention_taps_sum_to_one_over_real_tokens_or_to_zero():
    model = classifier()
    taps = keras.Model(model.input, model.tap_tensors)(IDS)
    np.testing.assert_array_equal(taps["mask"], IDS != 0)
    for index in range(LAYERS):
        attention = np.asarray(taps[f"encoder/{index}/attention"])
        assert attention.shape == (4, HEADS, 5, 5)
        has_a_key = np.array([1, 1, 0, 1])[:, None, None]
        np.testing.assert_allclose(attention.sum(-1), np.broadcast_to(has_a_key, (4, HEADS, 5)), atol=1e-5)
        behind = np.broadcast_to((IDS == 0)[:, None, None, :], attention.shape)
        assert np.all(attention[behind] == 0)


@pytest.mark.parametrize("form", FORMS)
def test_padding_at_the_end_changes_nothing(form):
    model = classifier(**form)
    want = np.asarray(model(IDS))
    for pads in (1, 3, 8):
        longer = np.pad(IDS, ((0, 0), (0, pads)))
        np.testing.assert_allclose(model(longer), want, atol=1e-5, err_msg=f"{pads} pads")


def test_each_row_of_a_batch_is_worked_on_by_itself():
    model = classifier()
    want = np.asarray(model(IDS))
    for row in range(4):
        np.testing.assert_allclose(model(IDS[row : row + 1])[0], want[row], atol=1e-5)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(model(IDS[order]), want[order], atol=1e-5)


def test_mean_pooling_hears_every_real_token_and_first_pooling_the_first():
    for pooling in models.text_classifier.POOLINGS:
        model = classifier(pooling=pooling)
        hidden, pooled = keras.Model(
            model.input, [model.tap_tensors[f"encoder/{LAYERS - 1}/hidden"], model.tap_tensors["pooled"]]
        )(IDS)
        for row, length in ((0, 5), (1, 2), (3, 1)):
            if pooling == "mean":
                want = np.mean(np.asarray(hidden[row, :length], "float64"), axis=0)
            else:
                want = np.asarray(model.get_layer("pooling").dense(hidden[row : row + 1, 0]))[0]
            np.testing.assert_allclose(pooled[row], want, atol=1e-5)


def test_a_text_of_padding_leaves_loss_and_gradients_finite_and_the_others_alone():
    model = classifier()
    with tf.GradientTape() as tape:
        logits = model(IDS, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 2, 0], logits))
    for weight, gradient in zip(model.weights, tape.gradient(loss, model.trainable_variables), strict=True):
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient))), weight.path
    np.testing.assert_allclose(np.asarray(logits)[[0, 1, 3]], model(IDS[[0, 1, 3]]), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_eager_graph_and_xla_agree(form):
    model = classifier(**form)
    want = np.asarray(model(IDS))
    spec = [tf.TensorSpec((None, None), tf.int32)]
    for jit_compile in (False, True):
        run = tf.function(lambda ids: model(ids), input_signature=spec, jit_compile=jit_compile)
        np.testing.assert_allclose(run(IDS), want, atol=1e-5, err_msg=f"jit_compile={jit_compile}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_each_policy_gives_float32_logits_near_the_oracle_and_finite_gradients(policy, form):
    model = classifier(dtype=policy, scale=0.25, **form)
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.trainable_weights} == {"float32"}
    with tf.GradientTape() as tape:
        logits = model(IDS)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 2, 0], logits))
    assert logits.dtype == tf.float32
    want, _ = oracle(model)
    error = {"float32": 1e-5, "mixed_bfloat16": 0.05, "mixed_float16": 0.01}[policy]
    assert np.abs(np.asarray(logits) - want).max() < error * max(1, np.abs(want).max())
    for weight, gradient in zip(model.trainable_weights, tape.gradient(loss, model.trainable_variables), strict=True):
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient))), weight.path


def test_the_global_policy_holds_where_none_is_given():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = classifier()
    assert model.dtype_policy.name == "mixed_bfloat16"
    assert model.get_layer("encoder_1").compute_dtype == "bfloat16"
    assert model.get_layer("logits").compute_dtype == "float32"


@pytest.mark.parametrize(("policy", "scales"), [("mixed_float16", True), ("mixed_bfloat16", False)])
def test_compiling_scales_the_loss_of_a_float16_model(policy, scales):
    model = classifier(dtype=policy)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == scales


def test_dropout_acts_in_training_only():
    model, calm = classifier(dropout=0.3), classifier(dropout=0.0)
    quiet = np.asarray(model(IDS))
    np.testing.assert_array_equal(model(IDS, training=False), quiet)
    assert np.abs(np.asarray(model(IDS, training=True)) - quiet).max() > 1e-2
    np.testing.assert_array_equal(calm(IDS, training=True), calm(IDS))
    np.testing.assert_array_equal(calm(IDS), quiet)


def test_the_longest_input_works_and_one_token_more_is_refused():
    model = classifier()
    full = np.ones((2, LONGEST), "int32")
    assert model(full).shape == (2, CLASSES)
    message = r"14 positions from 0 on don't fit a table of max_length=13\. Shorten the input to 13 positions"
    for call in (model, tf.function(model), lambda ids: model.predict(ids, verbose=0)):
        with pytest.raises(ValueError, match=message):
            call(np.ones((2, LONGEST + 1), "int32"))


def test_every_argument_is_an_attribute_and_comes_back_from_the_config():
    arguments = {
        "vocab_size": VOCAB,
        "num_classes": CLASSES,
        "num_layers": LAYERS,
        "model_dim": WIDTH,
        "num_heads": HEADS,
        "inner_dim": INNER,
        "max_length": LONGEST,
        "embedding_dim": 5,
        "kept_pieces": 17,
        "dropout": 0.25,
        "pooling": "first",
        "norm_first": True,
        "head_dim": 5,
        "ranks": {"encoder_0/attention/query": 2, "pooling/dense": 3},
        "name": "chosen",
    }
    parameters = inspect.signature(TextClassifier.__init__).parameters
    assert set(arguments) == set(parameters) - {"self", "dtype"}
    model = TextClassifier(**arguments, dtype="mixed_bfloat16")
    config = json.loads(json.dumps(model.get_config()))
    for name, value in arguments.items():
        assert value != parameters[name].default, f"{name} is at its default: a config that forgets it would pass"
        assert getattr(model, name) == value, name
        assert config[name] == value, name
    again = TextClassifier.from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]


def test_an_unknown_attribute_is_named():
    model = classifier()
    assert not hasattr(model, "num_head")
    with pytest.raises(AttributeError, match="TextClassifier has no attribute 'num_head'"):
        _ = model.num_head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be a whole number of at least 1"),
        ({"num_classes": 0}, "num_classes=0 must be a whole number of at least 1"),
        ({"num_layers": -1}, "num_layers=-1 must be a whole number of at least 1"),
        ({"num_heads": 4}, r"14 % 4 = 2\. Use a num_heads out of \[1, 2, 7, 14\], or model_dim=16"),
        ({"inner_dim": 1.5}, "inner_dim=1.5 must be a whole number"),
        ({"max_length": 0}, "max_length=0 must be a whole number"),
        ({"dropout": 1}, "dropout=1 must be at least 0 and below 1"),
        ({"pooling": "frist"}, r"pooling='frist' must be one of \['mean', 'first'\]. Did you mean pooling='first'"),
        ({"kept_pieces": 31}, "kept_pieces=31 is more than vocab_size=29"),
        ({"embedding_dim": 0}, "embedding_dim=0 must be a whole number"),
    ],
)
def test_a_bad_argument_is_refused_by_name(change, message):
    arguments = {"vocab_size": VOCAB, "num_classes": CLASSES, "num_layers": LAYERS, "model_dim": WIDTH}
    with pytest.raises(ValueError, match=message):
        TextClassifier(**{**arguments, "num_heads": HEADS, "inner_dim": INNER, **change})


def test_the_number_of_weights_is_that_of_the_formula():
    layer = 4 * (WIDTH * WIDTH + WIDTH) + 2 * WIDTH * INNER + INNER + WIDTH + 4 * WIDTH
    embeddings = (VOCAB + LONGEST + 2) * WIDTH + 2 * WIDTH
    head = WIDTH * CLASSES + CLASSES
    assert classifier().count_params() == embeddings + LAYERS * layer + head
    pooler, final_norm = WIDTH * WIDTH + WIDTH, 2 * WIDTH
    assert classifier(pooling="first").count_params() == embeddings + LAYERS * layer + pooler + head
    assert classifier(norm_first=True).count_params() == embeddings + LAYERS * layer + final_norm + head


def test_summary_names_the_layers_and_a_layer_is_found_by_its_name():
    model, lines = classifier(), []
    model.summary(print_fn=lines.append)
    for name in ("token_ids", "tokens", "positions", "encoder_1", "pooling", "logits"):
        assert name in "\n".join(lines)
        assert model.get_layer(name).name == name


def test_a_clone_has_the_same_shape_and_weights_of_its_own():
    model = classifier()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    want = np.asarray(model(IDS))
    np.testing.assert_allclose(clone(IDS), want, atol=1e-6)
    randomise(clone, seed=9)
    np.testing.assert_array_equal(model(IDS), want)


@pytest.mark.parametrize(
    "copied", [keras.models.clone_model, lambda model: TextClassifier.from_config(model.get_config())]
)
def test_a_copy_of_a_cut_model_tells_texts_apart_before_its_weights_are_set(copied):
    copy = copied(classifier(kept_pieces=5))
    randomise(copy)
    one, other = np.array([[7, 1, 2, 9]]), np.array([[7, 3, 2, 9]])
    assert np.max(np.abs(copy(one) - copy(other))) > 1e-3


def test_every_public_name_of_models_is_documented():
    for name in models.__all__:
        public = getattr(models, name)
        kind = public if inspect.isclass(public) or inspect.isfunction(public) else type(public)
        assert kind.__module__.startswith("keras_transformer.models"), name
        assert len(inspect.getdoc(kind) or "") > 20, name


def test_sizes_grow_and_pass_their_numbers_to_a_model():
    sizes = [models.TINY, models.SMALL, models.BASE]
    for smaller, larger in pairwise(sizes):
        assert smaller.num_layers * smaller.model_dim**2 < larger.num_layers * larger.model_dim**2
    for size in [*sizes, models.MINILM_L6]:
        assert size.model_dim % size.num_heads == 0
        assert size.inner_dim == 4 * size.model_dim
    model = TextClassifier(vocab_size=VOCAB, num_classes=CLASSES, **TINY.arguments())
    assert (model.num_layers, model.model_dim, model.num_heads, model.inner_dim) == (2, 128, 2, 512)
