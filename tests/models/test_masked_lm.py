"""The masked language model: BERT's formulas, one table for input and output, and hidden tokens that are learned."""

import inspect

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from weights import by_name, randomise

from keras_transformer.data.masking import hide_tokens
from keras_transformer.distillation.taps import with_taps
from keras_transformer.models import MaskedLM, TextClassifier
from keras_transformer.training.token_losses import MaskedCrossEntropy

VOCAB, LAYERS, WIDTH, HEADS, INNER, LONGEST = 29, 2, 15, 5, 11, 13
IDS = np.array([[5, 17, 28, 1, 9, 2, 8], [7, 3, 0, 0, 0, 0, 0], [11, 4, 21, 4, 6, 0, 0]], dtype="int32")
FORMS = [{}, {"norm_first": True, "embedding_dim": 7}]
HEAD = {"transform/kernel", "transform/bias", "transform_norm/gamma", "transform_norm/beta", "logits/bias"}


def masked_lm(**options):
    arguments = {"max_length": LONGEST, "dropout": 0.0, **options}
    return randomise(MaskedLM(VOCAB, LAYERS, WIDTH, HEADS, INNER, **arguments), scale=0.4)


@pytest.mark.parametrize("form", FORMS)
def test_logits_and_every_tap_match_the_loop_oracle(form):
    model = masked_lm(**form)
    norm_first = form.get("norm_first", False)
    logits, taps = oracles.masked_lm(IDS, by_name(model), LAYERS, HEADS, norm_first)
    got = with_taps(model, list(model.tap_tensors))(IDS)
    assert got.logits.dtype == tf.float32
    np.testing.assert_allclose(model(IDS), logits, atol=2e-5)
    np.testing.assert_allclose(got.logits, logits, atol=2e-5)
    assert got.taps.keys() | {"mask"} == taps.keys()
    for name, value in got.taps.items():
        np.testing.assert_allclose(value, taps[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_the_encoder_has_the_names_of_a_classifiers_and_the_head_no_second_table(form):
    classifier = TextClassifier(VOCAB, 3, LAYERS, WIDTH, HEADS, INNER, max_length=LONGEST, **form)
    trunk = {name for name in by_name(classifier) if not name.startswith("logits/")}
    assert set(by_name(masked_lm(**form))) == trunk | HEAD


def test_padding_changes_no_real_token_and_rows_keep_to_themselves():
    model = masked_lm()
    want = model(IDS).numpy()
    longer = np.pad(IDS[::-1], [(0, 0), (0, 5)])
    got = model(longer).numpy()[::-1, : IDS.shape[1]]
    np.testing.assert_allclose(got[IDS != 0], want[IDS != 0], atol=1e-5)


def test_half_precision_gives_float32_logits_near_those_of_float32():
    model = masked_lm(dtype="mixed_bfloat16")
    logits = model({"token_ids": IDS})
    assert model.get_layer("transform").compute_dtype == "bfloat16"
    assert logits.dtype == tf.float32
    want = masked_lm()(IDS).numpy()
    assert 1e-6 < np.abs(logits - want).max() < 0.05 * np.abs(want).max()


def test_one_batch_of_hidden_tokens_is_learned_by_heart_within_200_steps():
    ids = np.random.default_rng(2).integers(5, VOCAB, (11, 13)).astype("int32")
    ids[:5, 9:] = 0
    hide = hide_tokens(mask_id=3, vocab_size=VOCAB, special_ids=range(5), seed=4)
    batch = tf.data.Dataset.from_tensors(ids).apply(hide).cache()
    model = MaskedLM(VOCAB, 1, WIDTH, HEADS, 31, max_length=13)
    model.compile(keras.optimizers.Adam(1e-2), MaskedCrossEntropy(), jit_compile=False)
    before = model.evaluate(batch, verbose=0)
    model.fit(batch.repeat(200), shuffle=False, verbose=0)
    assert model.optimizer.iterations == 200
    assert before > 2.5
    assert model.evaluate(batch, verbose=0) < 0.05


def test_a_file_gives_back_the_model_with_each_argument_and_its_frozen_layers(tmp_path):
    arguments = {"max_length": 17, "embedding_dim": 7, "dropout": 0.25, "norm_first": True, "head_dim": 4}
    model = masked_lm(**arguments, name="reader")
    model.get_layer("encoder_0").trainable = False
    given = set(inspect.signature(MaskedLM.__init__).parameters) - {"self", "name", "dtype"}
    assert given == model.get_config().keys() - {"name", "dtype", "frozen"}
    assert arguments.items() <= model.get_config().items()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is MaskedLM
    assert loaded.get_config() == model.get_config()
    assert not loaded.get_layer("encoder_0").trainable
    np.testing.assert_allclose(loaded(IDS), model(IDS), atol=1e-6)
    assert len(loaded.weights) == len(model.weights)
    loaded.get_layer("tokens").table.assign(np.random.default_rng(6).normal(size=(VOCAB, 7)))
    want, _ = oracles.masked_lm(IDS, by_name(loaded), LAYERS, HEADS, norm_first=True)
    np.testing.assert_allclose(loaded(IDS), want, atol=5e-5)  # still one table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers=0 must be a whole number of at least 1"),
        ({"model_dim": 12}, r"model_dim=12 can't be cut into num_heads=5 equal heads"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        ({"vocab_size": -1}, "vocab_size=-1 must be a whole number of at least 1"),
    ],
)
def test_a_number_out_of_range_is_named(options, message):
    sizes = {"vocab_size": VOCAB, "num_layers": LAYERS, "model_dim": WIDTH, "num_heads": HEADS, "inner_dim": INNER}
    with pytest.raises(ValueError, match=message):
        MaskedLM(**{**sizes, **options})
