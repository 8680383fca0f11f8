"""SavedModels through TensorFlow's C API, in a process without TensorFlow's Python and without us."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from writing_models import TEXTS

from keras_transformer.generation import Decoding

LOADER = Path(__file__).parent / "c_api_loader.py"
LIMITS = [3, 1, 7, 2, 5, 4, 2, 1, 6]
TASKS = ["translate", "language-model"]
FLOAT32 = 1  # DataType


def asked(folders_and_requests, place):
    """What the loader says of each folder, its answers by the names of the requests."""
    command = [sys.executable, LOADER]
    for number, (folder, requests) in enumerate(folders_and_requests):
        path = place / f"{number}.json"
        path.write_text(json.dumps(list(requests.values())))
        command += [folder, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        {**one, "answers": dict(zip(requests, one["answers"], strict=True))}
        for one, (_, requests) in zip(found, folders_and_requests, strict=True)
    ]


@pytest.fixture(scope="module")
def found(saved, served_writer, examples, review_tokenizer, tmp_path_factory):
    """By task, what the C API says."""
    ids = review_tokenizer.pad(review_tokenizer.encode(examples, 19)).tolist()
    classifier = {
        "texts": {"signature": "serving_default", "inputs": {"text": examples}},
        "vectors": {"signature": "encode", "inputs": {"text": examples[:7]}},
        "ids": {"signature": "tokens", "inputs": {"token_ids": ids}},
        "negative": {"signature": "tokens", "inputs": {"token_ids": [[2, -1, 3]]}},
        "too_long": {"signature": "tokens", "inputs": {"token_ids": [[2] * 24]}},
        "bad_shape": {"signature": "serving_default", "inputs": {"text": [["a film"], ["another"]]}},
        "bad_dtype": {"signature": "serving_default", "inputs": {"text": [1.5]}, "dtype": FLOAT32},
        "after_errors": {"signature": "serving_default", "inputs": {"text": examples[:3]}},
    }
    writer = {
        "texts": {"signature": "serving_default", "inputs": {"text": TEXTS}},
        "limited": {"signature": "generate", "inputs": {"text": TEXTS, "max_tokens": LIMITS}},
        "searched": {"signature": "search", "inputs": {"text": TEXTS, "max_tokens": LIMITS}},
        "too_many": {"signature": "generate", "inputs": {"text": ["a"], "max_tokens": [99]}},
    }
    wanted = [(saved.path, classifier), *((served_writer(task).path, writer) for task in TASKS)]
    answers = asked(wanted, tmp_path_factory.mktemp("c_api"))
    return dict(zip(["classify", *TASKS], answers, strict=True))


def test_the_process_had_neither_tensorflows_python_nor_us(found):
    assert [one["imported"] for one in found.values()] == [[], [], []]


def test_the_signatures_are_there_by_name(found):
    writing = ["generate", "generate_tokens", "search", "serving_default", "tokens"]
    assert [one["signatures"] for one in found.values()] == [["encode", "serving_default", "tokens"], writing, writing]


def test_texts_become_the_labels_scores_and_vectors_of_the_keras_model(
    found, keras_logits, review_model, review_tokenizer, examples
):
    import keras

    answers = found["classify"]["answers"]
    scores = np.exp(keras_logits.astype(float))
    np.testing.assert_allclose(answers["texts"]["scores"], scores / scores.sum(axis=1, keepdims=True), atol=1e-5)
    assert answers["texts"]["labels"] == [["bad", "mixed", "good"][best] for best in keras_logits.argmax(axis=1)]
    np.testing.assert_allclose(answers["ids"]["logits"], keras_logits, atol=1e-5)
    pooled = keras.Model(review_model.inputs[0], review_model.get_layer("pooling").output)
    ids = review_tokenizer.pad(review_tokenizer.encode(examples[:7], 19))
    np.testing.assert_allclose(answers["vectors"]["embedding"], pooled(ids, training=False), atol=1e-5)


def test_xla_is_really_off_there(tmp_path):
    """A function that is to be compiled, which runs here, is refused there."""
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def twice(x):
        return x + x

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def compiled(x):
        return {"y": twice(x)}

    np.testing.assert_array_equal(compiled(tf.constant([1.0, 3.0]))["y"], [2.0, 6.0])
    signatures = {"compiled": compiled.get_concrete_function()}
    tf.saved_model.save(tf.Module(), str(tmp_path / "xla"), signatures=signatures)
    requests = {"compiled": {"signature": "compiled", "inputs": {"x": [1.0, 3.0]}}}
    (found,) = asked([(tmp_path / "xla", requests)], tmp_path)
    answer = found["answers"]["compiled"]
    assert answer.get("status", "OK") != "OK"
    assert "XLA" in answer["message"]


@pytest.mark.parametrize("task", TASKS)
def test_texts_become_the_texts_that_python_writes(found, task, in_keras):
    answers, python = found[task]["answers"], in_keras(task)
    assert answers["texts"]["output"] == python.write(TEXTS)
    limited, searched = Decoding(max_tokens=LIMITS[4]), Decoding(max_tokens=LIMITS[0], beam=4)
    assert answers["limited"]["output"][4:5] == python.write([TEXTS[4]], limited)
    assert answers["searched"]["output"][0][:1] == python.write([TEXTS[0]], searched)


@pytest.mark.parametrize(
    ("task", "request_name", "message"),
    [
        ("classify", "negative", "token_ids must lie in 0.."),
        ("classify", "too_long", "token_ids may have at most 23 columns"),
        ("classify", "bad_shape", ""),
        ("classify", "bad_dtype", ""),
        ("translate", "too_many", "max_tokens must lie in 1..23"),
        ("language-model", "too_many", "max_tokens must lie in 1..22"),
    ],
)
def test_what_the_model_does_not_take_is_an_invalid_argument_and_it_lives_on(found, task, request_name, message):
    answer = found[task]["answers"][request_name]
    assert answer["status"] == "INVALID_ARGUMENT"
    assert message in answer["message"]
    classified = found["classify"]["answers"]
    assert classified["after_errors"]["labels"] == classified["texts"]["labels"][:3]
