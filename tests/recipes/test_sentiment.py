"""The demo itself, on a few real texts and for a few steps: what it writes, and that nothing unproved is left."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from keras_transformer import bundle, serving
from keras_transformer.data.assets import minilm_folder
from keras_transformer.data.catalog.movie_snippets import Snippets, snippets
from keras_transformer.data.text import Table, read_table
from keras_transformer.export import ParityError, saved_model, tflite
from keras_transformer.models import TextClassifier
from keras_transformer.pretrained import bert
from keras_transformer.recipes import sentiment

ROOT = Path(__file__).parents[2]
ROWS = 48
FORMS = {"keras", "saved_model", "tflite_float32", "tflite_int8"}
MODEL_FIELDS = {
    *("name", "format", "accuracy", "recall", "f1", "parameters", "bytes"),
    *("latency_ms_p50", "latency_ms_p95"),
}


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory):
    """A Hugging Face folder with MiniLM's vocabulary and a small random model: `demo --quick` takes MiniLM itself."""
    folder = tmp_path_factory.mktemp("bert")
    bert.save(TextClassifier(30522, 2, 2, 96, 2, 300, max_length=64), folder)
    for name in ("vocab.txt", "tokenizer.json"):
        shutil.copy(minilm_folder() / name, folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, small_bert):
    """The folder that a tiny demo wrote; a blank in its name must not hurt."""
    place = tmp_path_factory.mktemp("demo run") / "sentiment"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentiment.assets, "minilm_folder", lambda tell: small_bert)
        patch.setattr(sentiment, "QUICK_ROWS", ROWS)
        patch.setattr(sentiment, "QUICK_LATENCY_TEXTS", 2)
        patch.setattr(sentiment, "STUDENT_STEPS", 1)
        patch.setattr(sentiment, "LATENCY_ROUNDS", 1)
        # So few texts have fewer pieces than the demo's rank, and so small a teacher fewer layers.
        patch.setattr(sentiment, "PLAN", replace(sentiment.PLAN, embedding_dim=24, layers=(1,)))
        patch.setattr(sentiment, "TEACHER", replace(sentiment.TEACHER, epochs=1))
        # One step teaches nothing: logits are nearly equal, and int8 may well turn one of so few answers.
        patch.setattr(sentiment, "tflite", partial(tflite, min_agreement=0.5))
        sentiment.demo(place, seed=3, quick=True, quiet=True)
    return place


@pytest.fixture(scope="module")
def report(made):
    return json.loads((made / "report.json").read_text(encoding="utf-8"))


def test_the_report_has_the_fields_that_other_programs_read(report):
    assert {"seconds", "seed", "data", "models", "parity"} <= set(report)
    assert report["data"] == {"train": ROWS, "test": ROWS, "unlabelled": ROWS}
    assert isinstance(report["seconds"], float)
    assert report["seconds"] > 0
    assert report["seed"] == 3
    rows = [(row["name"], row["format"]) for row in report["models"]]
    assert rows == [
        ("teacher", "keras"),
        ("student_labels_only", "keras"),
        *(("student_distilled", form) for form in ("keras", "saved_model", "tflite_float32", "tflite_int8")),
    ]
    for row in report["models"]:
        assert set(row) == MODEL_FIELDS
        assert all(0 <= row[name] <= 1 for name in ("accuracy", "recall", "f1"))
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p95"]
        assert isinstance(row["parameters"], int)
        assert isinstance(row["bytes"], int)


def test_the_report_says_how_far_each_file_is_from_its_model(report):
    assert [row["format"] for row in report["parity"]] == ["saved_model", "tflite_float32", "tflite_int8"]
    for row, limit in zip(report["parity"], (1e-5, 1e-4, 1.0), strict=True):
        assert set(row) == {"format", "max_abs_logit_error", "top1_agreement", "flex_ops"}
        assert 0 <= row["max_abs_logit_error"] <= limit
        assert row["flex_ops"] == []


def test_every_model_that_was_written_loads_and_answers_alike(made, report):
    texts = ["a gorgeous, witty, seductive movie", "dull from start to end"]
    forms = {
        "keras": made / "student_distilled",
        "saved_model": made / "sentiment",
        "tflite_float32": made / "student_float32.tflite",
        "tflite_int8": made / "student_int8.tflite",
    }
    logits = {}
    for form, path in forms.items():
        predictor = serving.load(path)
        assert predictor.format == form
        assert predictor.labels == ["negative", "positive"]
        logits[form] = predictor.logits(texts)
    np.testing.assert_allclose(logits["saved_model"], logits["keras"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits["tflite_float32"], logits["keras"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits["tflite_int8"], logits["keras"], rtol=0, atol=0.5)
    assert {row["format"] for row in report["models"]} == set(forms) == FORMS


@pytest.mark.parametrize("name", ["teacher", "student_labels_only", "student_distilled"])
def test_every_run_folder_tells_the_command_that_makes_it_again(made, report, name):
    info = bundle.read(made / name)
    words = ["keras-transformer", "demo", "--out", str(made), "--seed", "3", "--quick"]
    assert shlex.split(info.manifest.command) == words
    assert info.manifest.command == report["command"]
    (row,) = [row for row in report["models"] if (row["name"], row["format"]) == (name, "keras")]
    assert (row["parameters"], row["bytes"]) == (info.manifest.parameters, info.bytes)


def test_both_students_have_one_size_and_the_teacher_is_larger(report):
    parameters = {row["name"]: row["parameters"] for row in report["models"] if row["format"] == "keras"}
    assert parameters["student_labels_only"] == parameters["student_distilled"] < parameters["teacher"] / 5


def test_the_page_about_outputs_names_all_that_the_demo_writes_and_nothing_else(made):
    page = (ROOT / "saved_models" / "README.md").read_text(encoding="utf-8")
    listed = page[page.index("The folder of a demo holds") :]
    named = {name.rstrip("/") for name in re.findall(r"`([^`]+)`", listed)}
    assert named == {path.name for path in made.iterdir()} - {"sentiment"} | {"sentiment/1"}
    assert {name for name in named if not (made / name).exists()} == set()


def test_the_data_are_written_as_files_that_are_read_back_the_same(tmp_path):
    rows = sentiment.write_data(tmp_path)
    data = snippets()
    assert rows == {"train": 8056, "test": 2014, "unlabelled": 13098}
    assert read_table(tmp_path / "train.csv") == data.train
    assert read_table(tmp_path / "test.csv") == data.test
    assert read_table(tmp_path / "unlabelled.csv", label_column=None) == data.unlabelled


class StopBeforeTrainingError(Exception):
    """Ends a demo before it trains."""


def test_the_split_does_not_follow_the_seed(tmp_path, monkeypatch):
    seen = []

    def keep(minilm, tokenizer, encoded, run, tell):
        seen.append((run.seed, encoded.train, encoded.train_labels.tolist(), encoded.unlabelled))
        raise StopBeforeTrainingError

    monkeypatch.setattr(sentiment, "_train_all", keep)
    for seed in (0, 5):
        with pytest.raises(StopBeforeTrainingError):
            sentiment.demo(tmp_path / "out", seed=seed, quick=True, quiet=True)
    assert [one[0] for one in seen] == [0, 5]
    assert seen[0][1:] == seen[1][1:]
    assert set(seen[0][2]) == {0, 1}
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def untrained(small_tokenizer):
    return TextClassifier(small_tokenizer.vocab_size, 2, 1, 8, 2, 17, max_length=64, name="student_distilled")


@pytest.mark.parametrize(
    ("writer", "form", "lost", "kept"),
    [
        ("saved_model", "", ["sentiment", "student_float32.tflite", "student_int8.tflite"], []),
        ("tflite", "none", ["student_float32.tflite", "student_int8.tflite"], ["sentiment"]),
        ("tflite", "dynamic", ["student_int8.tflite"], ["sentiment", "student_float32.tflite"]),
    ],
)
def test_a_file_that_disagrees_stops_the_demo_and_is_not_left(
    untrained, small_tokenizer, tmp_path, monkeypatch, writer, form, lost, kept
):
    real = {"saved_model": saved_model, "tflite": tflite}[writer]

    def with_no_tolerance(model, path, **options):
        return real(model, path, tolerance=-1.0 if options.get("quantize", "") == form else None, **options)

    monkeypatch.setattr(sentiment, writer, with_no_tolerance)
    some = Table(["a fine film", "a dull film"] * 3, ["positive", "negative"] * 3)
    data = Snippets(some, some, Table(some.texts, None))
    models = {"student_distilled": untrained}
    with pytest.raises(
        ParityError, match=r"would differ from its Keras model .* \(limit -1e\+00\).*Nothing was written"
    ):
        sentiment._write_forms(models, small_tokenizer, data, tmp_path, "demo", sentiment._silence)
    assert {path.name for path in tmp_path.iterdir()} == {"student_distilled", *kept}
    assert not any((tmp_path / name).exists() for name in lost)
