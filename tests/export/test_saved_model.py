"""A SavedModel answers as its Keras model does, in the loader that TensorFlow Serving uses, or it isn't written."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer.checks import UserError
from keras_transformer.export import ParityError, saved_model
from keras_transformer.files import size_on_disk
from keras_transformer.models import TextClassifier

HERE = Path(__file__).parent
NOTES = ["SERVING.md", "batching_parameters.txt", "models.config"]  # for who runs the server
NASTY = ["", " \t ", "a FUNNY film 😀", "\u0645\u0645\u062a\u0639", "dull\x00dull", "warm " * 100]


@pytest.fixture(scope="module")
def stock(saved, examples, review_tokenizer, tmp_path_factory):
    """What the stock loader says of the SavedModel, in a process without Keras and without us."""
    ids = review_tokenizer.pad(review_tokenizer.encode(examples, 19)).tolist()
    vocab_size = review_tokenizer.vocab_size
    requests = {
        "ids": {"signature": "tokens", "inputs": {"token_ids": ids}},
        "text": {"signature": "serving_default", "inputs": {"text": examples}},
        "nasty": {"signature": "serving_default", "inputs": {"text": NASTY}},
        "negative": {"signature": "tokens", "inputs": {"token_ids": [[2, -1, 3]]}},
        "beyond": {"signature": "tokens", "inputs": {"token_ids": [[2, vocab_size, 3]]}},
        "longest": {"signature": "tokens", "inputs": {"token_ids": [[2] * 23]}},
        "too_long": {"signature": "tokens", "inputs": {"token_ids": [[2] * 24]}},
        "no_row": {"signature": "tokens", "inputs": {"token_ids": []}, "shape": [0, 5]},
        "no_text": {"signature": "serving_default", "inputs": {"text": []}},
        "vectors": {"signature": "encode", "inputs": {"text": [*examples, *NASTY]}},
        "no_vector": {"signature": "encode", "inputs": {"text": []}},
        "huge": {"signature": "serving_default", "inputs": {"text": ["film", "film " * (1 << 18)]}},
    }
    path = tmp_path_factory.mktemp("stock") / "requests.json"
    path.write_text(json.dumps(list(requests.values())))
    command = [sys.executable, HERE / "stock_loader.py", saved.path, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return {**result, "answers": dict(zip(requests, result["answers"], strict=True))}


def entries(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def softmax(logits):
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def test_the_loader_ran_without_keras_and_without_us(stock):
    assert stock["blocked"] == ["keras", "keras_transformer", "tf_keras", "tensorflow_text"]


def test_the_signatures_are_those_of_the_golden_file(stock):
    golden = json.loads((HERE / "golden_signatures.json").read_text())
    assert stock["signatures"] == golden["saved_model"]


def test_ids_give_the_logits_of_the_keras_model(stock, keras_logits):
    np.testing.assert_allclose(stock["answers"]["ids"]["logits"], keras_logits, rtol=0, atol=1e-5)


def test_raw_texts_give_the_labels_and_scores_of_the_keras_model(stock, keras_logits):
    answer = stock["answers"]["text"]
    np.testing.assert_allclose(answer["scores"], softmax(keras_logits), rtol=0, atol=1e-5)
    assert answer["labels"] == [["bad", "mixed", "good"][index] for index in keras_logits.argmax(axis=1)]
    assert len(set(answer["labels"])) == 3


def test_nasty_texts_are_read_as_the_tokenizer_reads_them(stock, review_model, review_tokenizer):
    ids = review_tokenizer.pad(review_tokenizer.encode(NASTY, 19))
    expected = softmax(review_model(ids, training=False).numpy())
    np.testing.assert_allclose(stock["answers"]["nasty"]["scores"], expected, rtol=0, atol=1e-5)


def test_raw_texts_give_the_pooled_vectors_of_the_keras_model(stock, review_model, review_tokenizer, examples):
    ids = review_tokenizer.pad(review_tokenizer.encode([*examples, *NASTY], 19))
    pooled = keras.Model(review_model.inputs[0], review_model.get_layer("pooling").output)
    np.testing.assert_allclose(stock["answers"]["vectors"]["embedding"], pooled(ids, training=False), atol=1e-5)


def test_a_text_that_would_hold_the_server_up_is_answered_with_the_reason(stock):
    assert stock["answers"]["huge"]["status"] == "InvalidArgumentError"
    assert "at most 1048576 bytes of UTF-8, here one has] [1310720]" in stock["answers"]["huge"]["message"]


@pytest.mark.parametrize(
    ("request_name", "message"),
    [
        ("negative", "token_ids must lie in 0..{last}, here they run from] [-1] [to] [3]"),
        ("beyond", "token_ids must lie in 0..{last}, here they run from] [2] [to] [{vocab_size}]"),
        ("too_long", "token_ids may have at most 23 columns, here they have] [24]"),
    ],
)
def test_ids_that_the_model_does_not_take_are_answered_with_the_reason(stock, review_tokenizer, request_name, message):
    answer = stock["answers"][request_name]
    size = review_tokenizer.vocab_size
    assert answer["status"] == "InvalidArgumentError"
    assert message.format(last=size - 1, vocab_size=size) in answer["message"]


def test_the_longest_input_of_the_model_is_taken(stock, review_model):
    expected = review_model(np.full((1, 23), 2, np.int32), training=False)
    np.testing.assert_allclose(stock["answers"]["longest"]["logits"], expected, rtol=0, atol=1e-5)


def test_no_row_at_all_gives_no_answer_and_no_error(stock):
    assert stock["answers"]["no_row"] == {"logits": []}
    assert stock["answers"]["no_text"] == {"labels": [], "scores": []}
    assert stock["answers"]["no_vector"] == {"embedding": []}


def test_only_core_operators_and_none_for_xla(saved, stock):
    assert {"HashTableV2", "MatMul", "StaticRegexFullMatch", "VarHandleOp"} <= set(saved.operators)
    assert [name for name in saved.operators if name.startswith(("Xla", "TFText", "Fast", "Wordpiece", "PyFunc"))] == []
    assert saved.operators == sorted(set(saved.operators))
    assert saved.flex_ops == []
    assert stock["compiled"] == []


def test_each_weight_is_stored_once(saved, review_model, tmp_path):
    weights = sum(int(np.prod(weight.shape)) * 4 for weight in review_model.weights)
    stored = (Path(saved.path) / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert weights <= stored < 1.05 * weights


def test_the_report_tells_what_is_on_disk(saved, keras_logits):
    folder = Path(saved.path)
    assert folder.name == "1"
    assert saved.format == "saved_model"
    assert saved.bytes == size_on_disk(folder)
    assert 0 <= saved.max_abs_logit_error <= 1e-5
    assert saved.top1_agreement == 1.0
    assert json.loads(json.dumps(asdict(saved)))["path"] == str(folder)
    assert entries(folder.parent) == ["1", *NOTES]


def test_labels_tokenizer_and_settings_travel_beside_the_graph(saved, review_model, review_tokenizer):
    extra = Path(saved.path) / "assets.extra"
    assert json.loads((extra / "labels.json").read_text()) == ["bad", "mixed", "good"]
    assert (extra / "tokenizer.json").read_text() == review_tokenizer.to_json()
    settings = json.loads((extra / "settings.json").read_text())
    assert settings["max_length"] == 19
    assert settings["vocab_size"] == review_tokenizer.vocab_size
    assert settings["parameters"] == review_model.count_params()
    assert "saved_model.pb" in settings["parts"]


def tiny_model(function=lambda x: x):
    """(N, T) ids -> (N, 3) logits by way of `function`, which sees (N, T, 3)."""
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    return keras.Model(inputs, ops.sum(function(keras.layers.Embedding(211, 3)(inputs)), axis=1), name="tiny")


@pytest.fixture
def few(parts):
    return {**parts, "examples": parts["examples"][:7]}


def test_a_model_over_the_limit_leaves_an_older_one_untouched_and_nothing_else(few, saved, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(Path(saved.path).parent, older)
    before = {path: path.read_bytes() for path in older.rglob("*") if path.is_file()}
    with pytest.raises(ParityError, match=r"older/1: would differ .* \(limit -1e\+00\).* Pass a larger tolerance"):
        saved_model(tiny_model(), older, **few, tolerance=-1.0)
    assert {path: path.read_bytes() for path in older.rglob("*") if path.is_file()} == before
    assert entries(older) == ["1", *NOTES]


def test_a_tokenizer_in_the_graph_that_reads_otherwise_is_found(few, tmp_path, monkeypatch):
    from keras_transformer.export import serving_graph

    whole = serving_graph.GraphWordPiece
    monkeypatch.setattr(serving_graph, "GraphWordPiece", lambda tokenizer, max_length: whole(tokenizer, 5))
    with pytest.raises(ParityError, match=r"the tokenizer in the graph reads that text differently"):
        saved_model(tiny_model(), tmp_path / "cut", **few)
    assert entries(tmp_path) == []


def test_version_one_is_replaced_and_other_versions_stay(few, saved, tmp_path):
    folder = tmp_path / "reviews"
    shutil.copytree(saved.path, folder / "1")
    (folder / "1" / "stale.txt").write_text("of the older export")
    (folder / "2").mkdir()
    (folder / "2" / "saved_model.pb").write_bytes(b"another")
    saved_model(tiny_model(), folder, **few)
    assert not (folder / "1" / "stale.txt").exists()
    assert (folder / "2" / "saved_model.pb").read_bytes() == b"another"
    assert entries(folder) == ["1", "2", *NOTES]


def test_a_folder_that_holds_something_else_is_not_replaced(review_model, parts, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "thesis.txt").write_text("three years")
    with pytest.raises(
        UserError, match=r"/1: is there and is no SavedModel, so it isn't replaced\. Give another folder"
    ):
        saved_model(review_model, tmp_path, **parts)
    assert (tmp_path / "1" / "thesis.txt").read_text() == "three years"


def test_a_model_in_mixed_precision_is_written_in_float32(review_tokenizer, few, tmp_path):
    model = TextClassifier(review_tokenizer.vocab_size, 3, 1, 14, 2, 17, max_length=23, dtype="mixed_bfloat16")
    report = saved_model(model, tmp_path / "mixed", **few)
    loaded = tf.saved_model.load(report.path)
    assert {variable.dtype for variable in loaded.shared_weights} == {tf.float32}
    ids = review_tokenizer.pad(review_tokenizer.encode(few["examples"], 19))
    logits = loaded.signatures["tokens"](token_ids=tf.constant(ids))["logits"]
    np.testing.assert_allclose(logits, model(ids, training=False), rtol=0, atol=0.05)  # bfloat16 has 8 bits
    assert model.get_layer("encoder_0").compute_dtype == "bfloat16"


def test_a_model_that_needs_xla_is_refused(few, tmp_path):
    model = tiny_model(lambda x: ops.slice_update(x, (0, 0, 0), ops.ones((1, 1, 3))))
    with pytest.raises(UserError, match=r"the model uses \['XlaDynamicUpdateSlice'\].*ops.where in place of"):
        saved_model(model, tmp_path / "xla", **few)
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["bad", "good"]}, r"gives outputs of shape \(None, 3\), and 2 labels need \(None, 2\)"),
        ({"labels": ["bad", "good", "bad"]}, "must be at least two distinct texts"),
        ({"labels": ["bad", "good", 3]}, "must be at least two distinct texts"),
        ({"examples": []}, r"examples=\[\] can't prove an export\. Pass a list of texts"),
        ({"examples": "a film"}, "examples='a film' can't prove an export"),
        ({"max_length": 24}, "max_length=24 is more than the 23 positions .* Use max_length=23 or less"),
        ({"max_length": 0}, "max_length=0 must be a whole number of at least 1"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(review_model, parts, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        saved_model(review_model, tmp_path / "new", **{**parts, **change})
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_with_more_pieces_than_the_model_is_refused(review_tokenizer, parts, tmp_path):
    model = TextClassifier(review_tokenizer.vocab_size - 1, 3, 1, 6, 2, 7, max_length=23)
    with pytest.raises(ValueError, match="Export the model with the tokenizer it was trained with"):
        saved_model(model, tmp_path / "new", **parts)


def test_a_model_with_two_inputs_is_refused(parts, tmp_path):
    first, second = (keras.Input((None,), dtype="int32", name=name) for name in ("a", "b"))
    logits = ops.sum(keras.layers.Embedding(211, 3)(first + second), axis=1)
    with pytest.raises(ValueError, match=r"inputs of shapes .* an export needs one input of token ids, \(N, T\)"):
        saved_model(keras.Model([first, second], logits), tmp_path / "new", **parts)


def test_a_model_of_one_fixed_length_is_padded_to_it(few, review_tokenizer, tmp_path):
    inputs = keras.Input((19,), dtype="int32", name="token_ids")
    weights = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Embedding(211, 5)(inputs)))
    model = keras.Model(inputs, weights)
    report = saved_model(model, tmp_path / "fixed", **few)
    assert report.max_abs_logit_error <= 1e-5
    answer = tf.saved_model.load(report.path)
    scores = answer.signatures["serving_default"](text=tf.constant(few["examples"]))["scores"]
    expected = softmax(model(review_tokenizer.pad(review_tokenizer.encode(few["examples"], 19), 19)).numpy())
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def test_a_place_that_cannot_be_written_is_named(few, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file/reviews/1: can't be written"):
        saved_model(tiny_model(), tmp_path / "file" / "reviews", **few)
    assert (tmp_path / "file").read_text() == "in the way"
