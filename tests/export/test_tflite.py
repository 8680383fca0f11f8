"""A `.tflite` file is whole, agrees with its Keras model, and needs nothing but built-in operators."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import ops

from keras_transformer.checks import UserError
from keras_transformer.export import QUANTIZATIONS, ParityError, attachments, lite_runner, tflite
from keras_transformer.files import size_on_disk
from keras_transformer.models import TextClassifier

HERE = Path(__file__).parent
FORMATS = {
    "none": "tflite_float32",
    "float16": "tflite_float16",
    "dynamic": "tflite_int8",
    "int8": "tflite_static_int8",
    "int16": "tflite_int16",
    "int4": "tflite_int4",
}


@pytest.fixture
def few(parts):
    return {**parts, "examples": parts["examples"][:7]}


def tiny_model(function=lambda x: x, length=None):
    """(N, T) ids -> (N, 3) logits: the sum, over real tokens, of what `function` makes of (N, T, 3)."""
    inputs = keras.Input((length,), dtype="int32", name="token_ids")
    real = ops.expand_dims(ops.not_equal(inputs, 0), 2)
    embedded = function(keras.layers.Embedding(211, 3)(inputs))
    return keras.Model(inputs, ops.sum(ops.where(real, embedded, 0.0), axis=1), name="tiny")


def test_a_model_that_reads_padding_is_found(few, tmp_path):
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    model = keras.Model(inputs, ops.sum(keras.layers.Embedding(211, 3)(inputs), axis=1))
    with pytest.raises(ParityError, match=r"Check that padding \(id 0\) can't change the model's answer"):
        tflite(model, tmp_path / "m.tflite", **few, quantize="none")


def lite_logits(path, tokenizer, texts):
    """The logits of each text alone, by the interpreter itself: no code of ours between."""
    runner = Interpreter(model_path=str(path)).get_signature_runner("tokens")
    rows = [runner(token_ids=np.array([ids], np.int32))["logits"] for ids in tokenizer.encode(texts, 19)]
    return np.concatenate(rows)


@pytest.mark.parametrize(("quantize", "tolerance"), [("none", 1e-4), ("float16", 1e-2)])
def test_float_forms_give_the_logits_of_the_keras_model(
    lite, quantize, tolerance, review_tokenizer, examples, keras_logits
):
    logits = lite_logits(lite(quantize).path, review_tokenizer, examples)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, keras_logits, rtol=0, atol=tolerance)


INTEGERS = ["dynamic", "int8", "int16", "int4"]


@pytest.mark.parametrize("quantize", INTEGERS)
def test_integer_forms_give_the_best_label_of_the_keras_model(lite, quantize, review_tokenizer, examples, keras_logits):
    logits = lite_logits(lite(quantize).path, review_tokenizer, examples)
    assert (logits.argmax(axis=1) == keras_logits.argmax(axis=1)).mean() >= 0.98
    assert np.abs(logits - keras_logits).max() < 0.1 * np.abs(keras_logits).max()
    assert np.unique(logits, axis=0).shape[0] > 50  # the answer still depends on the text


@pytest.mark.parametrize("quantize", INTEGERS)
def test_integer_forms_of_a_model_without_attention_are_close(few, quantize, tmp_path):
    model = tiny_model(lambda x: keras.layers.Dense(3)(keras.layers.Dense(401, "relu")(x)))
    report = tflite(model, tmp_path / "m.tflite", **few, quantize=quantize, min_agreement=0.0)
    ids = few["tokenizer"].pad(few["tokenizer"].encode(few["examples"], 19))
    share = 0.2 if quantize == "int4" else 0.05  # of a weight's range a step of 4 bits is a seventh
    assert 0 < report.max_abs_logit_error < share * np.abs(model(ids, training=False)).max()


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_the_report_tells_what_was_measured(lite, quantize, review_tokenizer, examples, keras_logits):
    report = lite(quantize)
    logits = lite_logits(report.path, review_tokenizer, examples)
    assert report.format == FORMATS[quantize]
    assert report.bytes == size_on_disk(report.path)
    assert report.max_abs_logit_error == pytest.approx(np.abs(logits - keras_logits).max(), abs=2e-6)
    assert report.top1_agreement == (logits.argmax(axis=1) == keras_logits.argmax(axis=1)).mean()
    assert json.loads(json.dumps(asdict(report)))["operators"] == report.operators


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_there_are_only_built_in_operators(lite, quantize):
    report = lite(quantize)
    interpreter = Interpreter(model_path=report.path)
    interpreter.allocate_tensors()
    run = {one["op_name"] for one in interpreter._get_ops_details()} - {"DELEGATE"}
    assert set(report.operators) >= run >= {"FULLY_CONNECTED", "GATHER", "SOFTMAX"}
    assert report.flex_ops == []
    assert not any(name.startswith(("Flex", "CUSTOM")) for name in report.operators)


def test_smaller_numbers_make_smaller_files(lite, review_model):
    weights = 4 * review_model.count_params()
    assert lite("none").bytes > weights
    assert lite("float16").bytes < lite("none").bytes - 0.4 * weights
    assert lite("dynamic").bytes < lite("none").bytes - 0.59 * weights  # there are ranges in it, too
    # A quarter of the weights' bytes again, and the ranges of all activations, which count in so small a model.
    assert lite("int8").bytes < lite("none").bytes - 0.5 * weights


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_the_signatures_are_those_of_the_golden_file(lite, quantize):
    interpreter = Interpreter(model_path=lite(quantize).path)
    found = {}
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        found[name] = {
            side: {
                key: {"dtype": np.dtype(tensor["dtype"]).name, "shape": tensor["shape_signature"].tolist()}
                for key, tensor in details.items()
            }
            for side, details in (("inputs", runner.get_input_details()), ("outputs", runner.get_output_details()))
        }
    assert found == json.loads((HERE / "golden_signatures.json").read_text())["tflite"]


def test_tokenizer_labels_and_settings_are_inside(lite, review_model, review_tokenizer):
    report = lite("dynamic")
    found = attachments.read_from_file(Path(report.path))
    assert found.labels == ["bad", "mixed", "good"]
    assert found.tokenizer_json == review_tokenizer.to_json()
    assert found.settings.task == "classify"
    assert found.settings.format == "tflite_int8"
    assert found.settings.max_length == 19
    assert found.settings.vocab_size == review_tokenizer.vocab_size
    assert found.settings.parameters == review_model.count_params()
    assert zipfile.is_zipfile(report.path)


def test_padding_does_not_change_an_answer(lite, review_tokenizer, examples):
    ids = review_tokenizer.encode(examples[:1], 19)
    runner = lite_runner.LiteRunner(lite("none").path)
    np.testing.assert_allclose(runner(review_tokenizer.pad(ids, 19)), runner(review_tokenizer.pad(ids)), atol=1e-6)


@pytest.mark.parametrize(
    ("quantize", "limits", "message"),
    [
        ("none", {"tolerance": -1.0}, r"differ .* \(limit -1e\+00\).* or pass a larger tolerance"),
        ("float16", {"tolerance": -1.0}, "Try quantize='none', or pass a larger tolerance"),
        ("dynamic", {"min_agreement": 1.01}, r"\(limit 101.0%\).* Try quantize='float16', or pass a lower min_agr"),
        ("int8", {"min_agreement": 1.01}, "Try quantize='dynamic', which fixes ranges for attention alone"),
        ("dynamic", {"tolerance": -1.0}, "Try quantize='float16', or pass"),
    ],
)
def test_a_file_over_the_limit_is_not_written_and_an_older_one_stays(few, tmp_path, quantize, limits, message):
    older = tmp_path / "m.tflite"
    older.write_bytes(b"the older file")
    with pytest.raises(ParityError, match=message):
        tflite(tiny_model(), older, **few, quantize=quantize, **limits)
    assert older.read_bytes() == b"the older file"
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


def test_a_model_in_mixed_precision_is_converted_in_float32(review_tokenizer, few, tmp_path):
    model = TextClassifier(review_tokenizer.vocab_size, 3, 1, 14, 2, 17, max_length=23, dtype="mixed_float16")
    twin = TextClassifier(review_tokenizer.vocab_size, 3, 1, 14, 2, 17, max_length=23)
    twin.set_weights(model.get_weights())
    report = tflite(model, tmp_path / "m.tflite", **few, quantize="none")
    expected = twin(review_tokenizer.pad(review_tokenizer.encode(few["examples"], 19)), training=False)
    np.testing.assert_allclose(lite_logits(report.path, review_tokenizer, few["examples"]), expected, atol=1e-4)


def test_a_classifier_with_a_cut_vocabulary_and_first_token_pooling_converts(review_tokenizer, few, tmp_path):
    size = review_tokenizer.vocab_size
    model = TextClassifier(
        size, 3, 1, 14, 2, 17, max_length=23, embedding_dim=5, kept_pieces=53, pooling="first", norm_first=True
    )
    model.get_layer("tokens").piece_row.assign(np.arange(size) % 53)
    report = tflite(model, tmp_path / "m.tflite", **few, quantize="none")
    logits = lite_logits(report.path, review_tokenizer, few["examples"])
    ids = review_tokenizer.encode(few["examples"], 19)
    alone = np.concatenate([model(np.array([row]), training=False) for row in ids])
    np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-4)
    assert np.ptp(logits, axis=0).min() > 1e-3


def test_a_model_of_one_fixed_length_says_so(few, tmp_path):
    report = tflite(tiny_model(length=19), tmp_path / "m.tflite", **few, quantize="none")
    assert lite_runner.LiteRunner(report.path).fixed_length == 19
    with pytest.raises(ValueError, match="max_length=19 is more than the 17 ids that model 'tiny' takes"):
        tflite(tiny_model(length=17), tmp_path / "short.tflite", **few)


def test_a_nested_model_in_mixed_precision_is_converted(few, tmp_path):
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    inner_inputs = keras.Input((None, 5))
    inner = keras.Model(inner_inputs, keras.layers.Dense(3, dtype="mixed_bfloat16")(inner_inputs))
    embedded = ops.cast(inner(keras.layers.Embedding(211, 5)(inputs)), "float32")
    real = ops.expand_dims(ops.not_equal(inputs, 0), 2)
    model = keras.Model(inputs, ops.sum(ops.where(real, embedded, 0.0), axis=1))
    report = tflite(model, tmp_path / "m.tflite", **few, quantize="none")
    assert report.max_abs_logit_error <= 1e-4


def test_an_operator_that_phones_lack_is_named(few, tmp_path):
    with pytest.raises(UserError, match=r"model 'tiny' can't become a \.tflite file: LiteRT has no Erfinv\. Write"):
        tflite(tiny_model(ops.erfinv), tmp_path / "m.tflite", **few)
    assert not list(tmp_path.iterdir())


def test_an_unknown_number_format_names_the_nearest(few, tmp_path):
    with pytest.raises(ValueError, match=r"quantize='flot16' must be one of .* Did you mean quantize='float16'\?"):
        tflite(tiny_model(), tmp_path / "m.tflite", **few, quantize="flot16")


def test_a_file_of_another_signature_is_refused(lite, few, tmp_path):
    content = Path(lite("none").path).read_bytes()
    renamed = tmp_path / "renamed.tflite"
    renamed.write_bytes(content.replace(b"tokens\0", b"tokers\0"))
    with pytest.raises(lite_runner.ModelFileError, match=r"renamed\.tflite: LiteRT can't use it"):
        lite_runner.LiteRunner(renamed)


def test_the_same_model_gives_the_same_file(few, tmp_path):
    model = tiny_model()
    paths = [tmp_path / name for name in ("a.tflite", "b.tflite")]
    for path in paths:
        tflite(model, path, **few, quantize="none")
    assert paths[0].read_bytes() == paths[1].read_bytes()
