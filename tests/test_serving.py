"""Whatever was trained or exported loads by its path alone, answers as the Keras model does, or says what is wrong."""

import json
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from keras_transformer import serving
from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError, size_on_disk

LABELS = ["negative", "neutral", "positive"]
TEXTS = ["a fine and funny film", "dull", "", "not funny at all 😀", "fine acting, dull plot " * 9, "a \ud800 film"]
FORMS = ["keras", "saved_model", "tflite_float32"]


@pytest.fixture(scope="module")
def places(small_bundle, small_model, small_tokenizer, tmp_path_factory):
    """The same small model in each form."""
    from keras_transformer import export

    folder = tmp_path_factory.mktemp("exported")
    arguments = {"tokenizer": small_tokenizer, "labels": LABELS, "max_length": 13, "examples": TEXTS[:4]}
    export.saved_model(small_model, folder / "small", **arguments)
    export.tflite(small_model, folder / "small.tflite", quantize="none", **arguments)
    return {"keras": small_bundle, "saved_model": folder / "small", "tflite_float32": folder / "small.tflite"}


@pytest.fixture(scope="module")
def predictors(places):
    return {form: serving.load(place) for form, place in places.items()}


@pytest.fixture(scope="module")
def expected(small_model, small_tokenizer):
    """Logits of each text alone, straight from the Keras model."""
    rows = [np.array([ids], np.int32) for ids in small_tokenizer.encode(TEXTS, 13)]
    return np.concatenate([small_model(row, training=False).numpy() for row in rows])


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_logits_of_the_keras_model(predictors, form, expected):
    logits = predictors[form].logits(TEXTS)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_the_softmax_and_labels_the_best(predictors, form, expected):
    labels, scores = predictors[form].predict(TEXTS)
    exponentials = np.exp(expected.astype(np.float64))
    np.testing.assert_allclose(scores, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=0, atol=1e-5)
    assert scores.dtype == np.float32
    assert labels == [LABELS[index] for index in expected.argmax(axis=1)]


@pytest.mark.parametrize("form", FORMS)
def test_a_predictor_says_what_it_is(predictors, places, form, small_model):
    predictor = predictors[form]
    assert (predictor.format, predictor.task) == (form, "classify")
    assert predictor.labels == LABELS
    assert predictor.max_length == 13
    assert predictor.parameters == small_model.count_params()
    inside = {"keras": "model.keras", "saved_model": "1"}  # of a SavedModel the version, not what lies beside it
    assert predictor.bytes == size_on_disk(places[form] / inside.get(form, ""))


@pytest.mark.parametrize("form", FORMS)
def test_no_text_gives_no_answer(predictors, form):
    assert predictors[form].logits([]).shape == (0, 3)
    assert predictors[form].predict([]).labels == []
    assert predictors[form].predict([]).scores.shape == (0, 3)


@pytest.mark.parametrize("form", FORMS)
def test_many_texts_answer_like_each_alone(predictors, form):
    texts = [" ".join([["fine", "film", "dull", "plot"][index % 4]] * (index % 11)) for index in range(71)]
    together = predictors[form].predict(texts).scores
    alone = np.concatenate([predictors[form].predict([text]).scores for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_long_text_is_cut_at_the_maximum_length(predictors, form):
    once, often = predictors[form].logits(["fine dull " * 20, "fine dull " * 2000])
    np.testing.assert_allclose(once, often, rtol=0, atol=1e-6)


def test_a_text_that_the_graph_refuses_is_refused_before_it(predictors):
    with pytest.raises(UserError, match=r"a text has 1048577 bytes, .* reads texts of up to 1048576\. Cut it"):
        predictors["saved_model"].predict(["a film", "a" * 1048577])


@pytest.mark.parametrize("form", FORMS)
def test_one_string_is_not_taken_for_a_list(predictors, form):
    for method in (predictors[form].predict, predictors[form].logits):
        with pytest.raises(TypeError, match=r"Use \[text\]"):
            method("a film")
        with pytest.raises(TypeError, match=r"string"):
            method(["a film", 3])


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_checked_before_the_kernel(predictors, form, small_tokenizer):
    predictor = predictors[form]
    size = small_tokenizer.vocab_size if form == "keras" else predictor.vocab_size
    assert predictor.vocab_size == 61 >= size
    with pytest.raises(UserError, match=r"token_ids\[1\] holds -1, and this model's ids are 0 to 60"):
        predictor.token_logits([[2, 3], [2, -1, 3]])
    with pytest.raises(UserError, match=r"token_ids\[0\] holds 61, .* Make the ids with this model's own tokenizer"):
        predictor.token_logits([[2, 61, 3]])
    with pytest.raises(UserError, match=r"token_ids\[0\] has 14 ids, and this model takes 1 to 13"):
        predictor.token_logits([[2] * 14])
    with pytest.raises(UserError, match=r"token_ids\[0\] has 0 ids"):
        predictor.token_logits([[]])
    assert predictor.token_logits([[2, 60, 3]]).shape == (1, 3)


@pytest.mark.parametrize("form", FORMS)
def test_threads_may_share_a_predictor(predictors, form):
    predictor, wrong = predictors[form], []
    texts = ["fine", "dull film", "not funny at all", "fine acting dull plot funny film"]
    truth = {text: predictor.logits([text]) for text in texts}

    def ask(text):
        for _ in range(30):
            if np.abs(predictor.logits([text]) - truth[text]).max() > 1e-5:
                wrong.append(text)

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_tflite_file_is_served_without_tensorflow_and_keras(places, expected):
    code = """
        import json, sys
        import keras_transformer.serving as serving
        predictor = serving.load(sys.argv[1], threads=1)
        logits = predictor.logits(json.loads(sys.argv[2]))
        heavy = sorted({name.split(".")[0] for name in sys.modules} & {"tensorflow", "keras", "h5py", "tf_keras"})
        print(json.dumps({"logits": logits.tolist(), "heavy": heavy}))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(places["tflite_float32"]), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["heavy"] == []
    np.testing.assert_allclose(answer["logits"], expected, rtol=0, atol=1e-5)


def test_a_saved_model_loads_by_its_version_folder_too(places, expected):
    predictor = serving.load(places["saved_model"] / "1")
    np.testing.assert_allclose(predictor.logits(TEXTS), expected, rtol=0, atol=1e-5)


def test_the_newest_version_is_taken_by_number(places, tmp_path):
    for version in ("2", "9", "10", "0x11", "tmp"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").write_bytes(b"no model")
    shutil.rmtree(tmp_path / "10")
    shutil.copytree(places["saved_model"] / "1", tmp_path / "10")
    assert serving.load(tmp_path).labels == LABELS


def test_a_path_without_anything_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"nothing: there is no such file or folder\. Give a folder written by"):
        serving.load(tmp_path / "nothing")


def test_a_folder_of_other_things_is_named(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ModelFileError, match=r"is neither a run folder nor a SavedModel\. Give a folder"):
        serving.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text,label\nfine,positive\n", b"\x20\0\0\0TFL3" + bytes(999)])
def test_a_file_that_is_no_tflite_file_of_ours_is_named(tmp_path, content):
    path = tmp_path / "other.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"other\.tflite: can't be read as a \.tflite file of ours"):
        serving.load(path)


def test_a_damaged_tflite_file_never_reaches_the_interpreter(places, tmp_path):
    content = bytearray(places["tflite_float32"].read_bytes())
    path = tmp_path / "damaged.tflite"
    for place in range(5, len(content) // 2, len(content) // 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(ModelFileError, match=r"damaged\.tflite: its model isn't the one that was written"):
            serving.load(path)
    path.write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(ModelFileError, match=r"damaged\.tflite: can't be read"):
        serving.load(path)


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.data-00000-of-00001", "assets.extra/labels.json"]
)
def test_a_damaged_saved_model_is_named(places, tmp_path, name):
    shutil.copytree(places["saved_model"], tmp_path / "copy")
    path = tmp_path / "copy" / "1" / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelFileError, match=r"copy/1"):
        serving.load(tmp_path / "copy")


def test_a_saved_model_of_another_program_is_named(places, tmp_path):
    shutil.copytree(places["saved_model"], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "1" / "assets.extra")
    with pytest.raises(ModelFileError, match=r"has no usable assets\.extra/tokenizer\.json beside its graph"):
        serving.load(tmp_path / "copy")


def test_a_damaged_bundle_is_named(small_bundle, tmp_path):
    shutil.copytree(small_bundle, tmp_path / "copy")
    (tmp_path / "copy" / "model.keras").write_bytes(b"stub")
    with pytest.raises(ModelFileError, match=r"copy/model\.keras: has 4 bytes"):
        serving.load(tmp_path / "copy")


def test_a_number_of_threads_that_is_none_is_refused(places):
    with pytest.raises(ValueError, match="threads=0 must be a whole number of at least 1"):
        serving.load(places["tflite_float32"], threads=0)


def test_threads_come_too_late_once_tensorflow_runs(predictors, places):
    with pytest.raises(UserError, match=r"threads=7: TensorFlow already runs in this process.* or in a new process"):
        serving.load(places["saved_model"], threads=7)


def test_a_thousand_answers_take_no_more_memory(predictors):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    predictor = predictors["tflite_float32"]
    texts = ["fine " * (index % 11) for index in range(500)]
    predictor.predict(texts)
    before = resident()
    predictor.predict(texts)
    predictor.predict(texts)
    assert resident() - before < 0.01 * before
