"""A model learns, the same each time, and its files give it back, in a process of their own too."""

import json
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import by_name, randomise

from keras_transformer.layers import Encoder, PositionalEncoding, TokenEmbedding
from keras_transformer.models import CausalLM, Seq2Seq, TextClassifier

ARGUMENTS = {
    "vocab_size": 29,
    "num_classes": 3,
    "num_layers": 2,
    "model_dim": 14,
    "num_heads": 7,
    "inner_dim": 11,
    "max_length": 13,
    "kept_pieces": 17,
    "norm_first": True,
}
IDS = np.random.default_rng(2).integers(1, 29, (11, 7)).astype("int32")
IDS[:5, 4:] = 0
LABELS = np.arange(11, dtype="int32") % 3


def compiled(dropout=0.1, **options):
    arguments = {**ARGUMENTS, "num_layers": 1, "kept_pieces": None, "norm_first": False, "dropout": dropout}
    model = TextClassifier(**arguments)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False, **options)
    return model


def loss_of(model):
    return float(model.loss(LABELS, model(IDS)))


@pytest.fixture(scope="module")
def two_runs():
    """Two models made and trained alike, 200 steps on one batch, and their losses before."""
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(13)
        model = compiled()
        before = loss_of(model)
        model.fit(tf.data.Dataset.from_tensors((IDS, LABELS)).repeat(200), shuffle=False, verbose=0)
        runs.append((before, model))
    return runs


def test_one_batch_is_learned_by_heart_within_200_steps(two_runs):
    before, model = two_runs[0]
    assert model.optimizer.iterations == 200
    assert before > 0.7
    assert loss_of(model) < 0.05


def test_the_same_seed_gives_the_same_run_to_the_bit(two_runs):
    (first_loss, first), (second_loss, second) = two_runs
    assert first_loss == second_loss
    for one, two in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    keras.utils.set_random_seed(14)
    assert loss_of(compiled()) != first_loss


def test_a_model_with_frozen_layers_is_loaded_frozen_and_trains_on(tmp_path):
    model = compiled()
    for name in ("tokens", "positions"):
        model.get_layer(name).trainable = False
    model.compile(model.optimizer, model.loss, run_eagerly=True)
    before = by_name(model)
    model.train_on_batch(IDS, LABELS)
    model.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras")  # its optimizer knows only what was trained
    assert not loaded.get_layer("tokens").trainable
    assert loaded.optimizer.iterations == 1
    loaded.train_on_batch(IDS, LABELS)
    after = by_name(loaded)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "encoder_0/attention/query/kernel" in changed
    assert not {name for name in changed if name.startswith(("tokens/", "positions/"))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with each kind of file, and the answers that they must give."""
    folder = tmp_path_factory.mktemp("saved")
    model = randomise(TextClassifier(**ARGUMENTS))
    model.get_layer("tokens").piece_row.assign(np.arange(29) * 5 % 17)
    model.save(folder / "classifier.keras")
    model.save_weights(folder / "classifier.weights.h5")
    inputs = keras.Input((None,), dtype="int32")
    x = PositionalEncoding()(TokenEmbedding(29, 14, embedding_dim=5)(inputs))
    own = randomise(keras.Model(inputs, Encoder(2, 14, 7, 11, activation="relu")(x)))
    own.save(folder / "own.keras")
    pooled = keras.Model(model.input, model.tap_tensors["pooled"])
    pooled.save(folder / "pooled.keras")
    language_model = randomise(CausalLM(29, 2, 14, 7, 11, positions="rotary", num_key_value_heads=1))
    language_model.save(folder / "language_model.keras")
    translator = randomise(Seq2Seq(29, 2, 14, 7, 11, norm_first=True))
    translator.save(folder / "translator.keras")
    answers = {
        "classifier": model(IDS),
        "own": own(IDS),
        "pooled": pooled(IDS),
        "language_model": language_model(IDS),
        "translator": translator({"source_ids": IDS, "target_ids": IDS[:, ::-1]}),
    }
    np.savez(folder / "answers.npz", ids=IDS, **answers)
    (folder / "arguments.json").write_text(json.dumps(ARGUMENTS))
    return folder


def test_files_give_the_model_back(saved):
    answers = np.load(saved / "answers.npz")
    loaded = keras.saving.load_model(saved / "classifier.keras")
    assert type(loaded) is TextClassifier
    np.testing.assert_array_equal(loaded(IDS), answers["classifier"])
    fresh = TextClassifier(**ARGUMENTS)
    assert np.abs(np.asarray(fresh(IDS)) - answers["classifier"]).max() > 1e-2
    fresh.load_weights(saved / "classifier.weights.h5")
    np.testing.assert_array_equal(fresh(IDS), answers["classifier"])


def test_a_fresh_process_that_imports_models_alone_reads_each_file(forked, saved):
    script = """
        import json, sys
        from keras_transformer.models import TextClassifier
        import keras, numpy as np
        folder = sys.argv[1]
        answers = np.load(f"{folder}/answers.npz")
        ids = answers["ids"]
        found = {name: keras.saving.load_model(f"{folder}/{name}.keras") for name in answers if name != "ids"}
        inputs = {name: ids for name in found} | {"translator": {"source_ids": ids, "target_ids": ids[:, ::-1]}}
        errors = {name: float(np.abs(model(inputs[name]) - answers[name]).max()) for name, model in found.items()}
        fresh = TextClassifier(**json.load(open(f"{folder}/arguments.json")))
        fresh.load_weights(f"{folder}/classifier.weights.h5")
        errors["weights"] = float(np.abs(fresh(answers["ids"]) - answers["classifier"]).max())
        print(json.dumps({"errors": errors, "class": type(found["classifier"]).__name__}))
    """
    run = forked.run(textwrap.dedent(script), saved)
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["class"] == "TextClassifier"
    assert result["errors"].keys() == {"classifier", "own", "pooled", "language_model", "translator", "weights"}
    assert max(result["errors"].values()) <= 1e-6
