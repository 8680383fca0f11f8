"""A whole search on a few real snippets and a tiny teacher: what is handed over, gone on with, and refused."""

import csv
import json

import pytest
from typer.testing import CliRunner

from keras_transformer import bundle, serving
from keras_transformer.budget_search import search
from keras_transformer.budget_search.search import compress
from keras_transformer.budget_search.settings import SearchSettings
from keras_transformer.budget_search.wishes import Budget, LeastAccuracy
from keras_transformer.checks import UserError
from keras_transformer.cli import app
from keras_transformer.data.catalog.movie_snippets import snippets
from keras_transformer.data.text import read_table
from keras_transformer.evaluation import evaluate
from keras_transformer.recipes.classify import TrainSettings, train

ROOM = "450KB"


def write_csv(path, **columns):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """160 rows to train on, 50 to measure on, 30 without labels, and a teacher of 2 x 128."""
    folder = tmp_path_factory.mktemp("search")
    data = snippets()
    texts = [*data.train.texts[:160:2], *data.train.texts[4000:4160:2]]
    labels = [*data.train.labels[:160:2], *data.train.labels[4000:4160:2]]
    write_csv(folder / "train.csv", text=texts, label=labels)
    write_csv(folder / "test.csv", text=data.test.texts[::40][:50], label=data.test.labels[::40][:50])
    write_csv(folder / "more.csv", text=data.unlabelled.texts[:30])
    train(TrainSettings(data=folder / "train.csv", out=folder / "teacher", size="tiny", epochs=2, quiet=True))
    return folder


def settings(files, out, budget="60MB", accuracy="0.5x", **changes):
    given = {
        "teacher": files / "teacher",
        "data": files / "train.csv",
        "test": files / "test.csv",
        "unlabelled": files / "more.csv",
        "out": out,
        "budget": Budget.parse(budget),
        "min_accuracy": LeastAccuracy.parse(accuracy),
        "forms": ("dynamic",),
        "candidates": 2,
        "epochs": 1,
        "quiet": True,
    }
    return SearchSettings(**{**given, **changes})


@pytest.fixture(scope="module")
def one_sensitivity():
    """All searches here have one teacher and one corpus: what the first one measures is true of the others."""
    known = []
    measure = search.sensitivity.measure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            search.sensitivity,
            "measure",
            lambda *given: known[0] if known else known.append(measure(*given)) or known[0],
        )
        yield


@pytest.fixture(scope="module")
def found(files, one_sensitivity):
    """One search, with less room than the teacher's own file takes."""
    out = files / "small"
    return out, compress(settings(files, out, ROOM, "0.3x"))


def test_the_file_is_within_the_budget_and_scores_what_was_told(files, found):
    out, told = found
    assert told["met"] is True
    assert told["bytes"] == (out / "model.tflite").stat().st_size <= 450_000
    scores = evaluate(serving.load(out / "model.tflite"), read_table(files / "test.csv"))
    assert scores.accuracy == told["accuracy"]
    assert (
        told["teacher_accuracy"] == evaluate(serving.load(files / "teacher"), read_table(files / "test.csv")).accuracy
    )


def test_the_students_run_folder_belongs_to_the_file(found):
    out, told = found
    student = bundle.load(out / "student", task="classify")
    texts = student.examples[:17]
    before, after = (serving.load(out / name).predict(texts).labels for name in ("student", "model.tflite"))
    same = [a == b for a, b in zip(before, after, strict=True)]
    assert sum(same) >= 16
    assert student.manifest.command.startswith("keras-transformer compress ")
    assert told["folder"] == str(out)


def test_everything_that_was_tried_is_recorded(found):
    out, told = found
    record = json.loads((out / "search.json").read_text())
    assert record["result"] == told
    assert record["measuring_rows"] == 50
    assert 1 <= len(record["tries"]) <= 2
    names = {row["name"] for row in record["files"]}
    assert {"teacher", told["name"]} <= names <= {"teacher", *(one["name"] for one in record["tries"])}
    report = (out / "report.md").read_text()
    for row in record["files"]:
        assert f"{row['accuracy']:.4f}" in report
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert not out.with_name("small.partial").exists()


@pytest.mark.slow
def test_a_search_that_was_stopped_goes_on_and_asks_nothing_twice(files, found, monkeypatch):
    _, told = found
    again = settings(files, files / "again", ROOM, "0.3x")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search.Lessons, "full", stop)
        with pytest.raises(KeyboardInterrupt):
            compress(again)
    partial = files / "again.partial"
    known = json.loads((partial / "journal.json").read_text())["found"]
    assert {"teacher", "sensitivity"} <= set(known)
    assert any(name.startswith("short/") for name in known)
    assert not (files / "again").exists()
    with monkeypatch.context() as patch:
        patch.setattr(search.sensitivity, "measure", stop)
        patch.setattr(search.Lessons, "short", stop)
        went_on = compress(again)
    assert went_on["met"] is True
    assert not partial.exists()
    # Times are measured again, so that another candidate may have been within; each learned from the same start.
    if went_on["name"] == told["name"]:
        assert went_on["accuracy"] == told["accuracy"]


@pytest.mark.slow
def test_the_command_writes_the_nearest_file_and_ends_badly_where_wishes_clash(files, one_sensitivity):
    out = files / "clash"
    named = ["--data", files / "train.csv", "--test", files / "test.csv", "--out", out]
    wishes = ["--budget", ROOM, "--min-accuracy", "1.0", "--quantize", "dynamic"]
    arguments = ["compress", files / "teacher", *named, *wishes, "--candidates", "1", "--epochs", "1", "--quiet"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, UserError)
    assert "can't be had together" in str(result.exception)
    told = json.loads((out / "search.json").read_text())["result"]
    assert told["met"] is False
    assert told["instead"] in str(result.exception)
    assert (out / "model.tflite").stat().st_size == told["bytes"]


def test_a_budget_that_nothing_fits_into_is_refused_with_the_nearest(files, one_sensitivity):
    out = files / "none"
    with pytest.raises(
        UserError, match=r"no candidate fits into it. The nearest of 1 files tried, .* MB and takes .* ms"
    ):
        compress(settings(files, out, "1KB"))
    assert not out.exists()


def test_a_folder_of_something_else_is_refused(files, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="thesis"):
        compress(settings(files, tmp_path))


def test_a_table_of_times_takes_the_place_of_measuring(files, tmp_path):
    table = tmp_path / "phone.csv"
    table.write_text("file,ms\nnobody/dynamic,3\n")
    with pytest.raises(UserError, match=r"asks for a speed beside the teacher's"):
        compress(settings(files, tmp_path / "a", "3x", latency_table=table))
    table.write_text("file,ms\nteacher,9\nnobody/dynamic,fast\n")
    with pytest.raises(UserError, match="row 3 is"):
        compress(settings(files, tmp_path / "b", "3x", latency_table=table))
