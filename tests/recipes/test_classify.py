"""A user's own file through train, distil, export and evaluate, on a few real snippets and the smallest sizes."""

import csv
import json
import os
import re
import signal
import time
from contextlib import suppress

import numpy as np
import pytest

from keras_transformer import bundle, serving
from keras_transformer.checks import UserError
from keras_transformer.data.catalog.movie_snippets import snippets
from keras_transformer.data.text import Table, read_table
from keras_transformer.evaluation import evaluate
from keras_transformer.export import saved_model, tflite
from keras_transformer.recipes import classify, job
from keras_transformer.recipes.classify import DistillSettings, TrainSettings, distill, train
from keras_transformer.recipes.settings import command


def write_csv(path, columns):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """240 labelled rows of three classes, and 60 without labels."""
    folder = tmp_path_factory.mktemp("files")
    data = snippets()
    texts = [*data.train.texts[:160:2], *data.train.texts[4000:4160:2], *data.unlabelled.texts[:80]]
    labels = [*(data.train.labels[:160:2]), *(data.train.labels[4000:4160:2]), *["other"] * 80]
    write_csv(folder / "reviews.csv", {"text": texts, "label": labels})
    write_csv(folder / "more.csv", {"text": data.unlabelled.texts[100:160]})
    return folder


TEACHER = {"size": "tiny", "epochs": 3, "quiet": True}


@pytest.fixture(scope="module")
def teacher(files):
    """A run folder made by `train`, and what `train` told."""
    out = files / "runs" / "teacher"
    return out, train(TrainSettings(data=files / "reviews.csv", out=out, **TEACHER))


@pytest.fixture(scope="module")
def student(files, teacher):
    out = files / "runs" / "student"
    told = distill(
        DistillSettings(
            teacher=teacher[0],
            data=files / "reviews.csv",
            unlabelled=files / "more.csv",
            out=out,
            epochs=1,
            quiet=True,
        )
    )
    return out, told


def test_train_writes_a_run_folder_whose_model_scores_what_was_told(files, teacher):
    out, told = teacher
    assert told["n"] == 24  # a tenth of 240
    loaded = bundle.load(out, task="classify")
    assert loaded.labels == ["negative", "other", "positive"]
    assert loaded.manifest.metrics["accuracy"] == told["accuracy"]
    held_out = Table(loaded.examples, None)
    assert len(held_out) == 24
    whole = read_table(files / "reviews.csv")
    truth = dict(zip(whole.texts, whole.labels, strict=True))
    scores = evaluate(serving.load(out), Table(loaded.examples, [truth[text] for text in loaded.examples]))
    assert scores.accuracy == pytest.approx(told["accuracy"])
    assert not out.with_name("teacher.partial").exists()


def test_distill_writes_a_smaller_model_that_reads_the_same_labels(teacher, student):
    (teacher_folder, teacher_told), (student_folder, told) = teacher, student
    big, small = bundle.load(teacher_folder), bundle.load(student_folder)
    assert small.labels == big.labels
    assert small.model.count_params() < big.model.count_params()
    assert small.tokenizer.vocab == big.tokenizer.vocab
    assert told["rows"] == 216 + 60
    # Mixed precision may turn one answer out of 24.
    assert told["teacher_accuracy"] == pytest.approx(teacher_told["accuracy"], abs=1 / 24)


def test_the_student_leaves_for_phone_and_server_and_all_three_forms_agree(files, student):
    loaded = bundle.load(student[0])
    common = {
        "tokenizer": loaded.tokenizer,
        "labels": loaded.labels,
        "max_length": loaded.manifest.max_length,
        "examples": loaded.examples,
    }
    tflite(loaded.model, files / "student.tflite", quantize="none", **common)
    saved_model(loaded.model, files / "serving" / "reviews", **common)
    texts = loaded.examples[:7]
    reference = serving.load(student[0]).logits(texts)
    for path in (files / "student.tflite", files / "serving" / "reviews"):
        np.testing.assert_allclose(serving.load(path).logits(texts), reference, atol=1e-4)


def test_minutes_cut_the_work_and_the_message_says_so(files, tmp_path, monkeypatch, capsys):
    fitted = []

    def stop(model, batches, schedule, **_):
        fitted.append((len(batches.lengths), schedule.epochs, model.output_shape[-1]))
        raise InterruptedError

    monkeypatch.setattr(classify, "fit_on_labels", stop)
    settings = {"data": files / "reviews.csv", "out": tmp_path / "short", "size": "tiny", "epochs": 30}
    with pytest.raises(InterruptedError):
        train(TrainSettings(**settings, minutes=1e-5, batch_size=32))
    ((rows, epochs, labels),) = fitted
    assert 0 < rows < 216
    assert (epochs, labels) == (1, 3)  # however few the rows are, each label has its place
    assert f"{rows} of 216 texts, " in (said := capsys.readouterr().err)
    assert " 1 epochs" in said


def test_a_killed_run_goes_on_and_ends_where_an_undisturbed_one_does(forked, files, teacher, tmp_path):
    """SIGKILL as soon as the first epoch's state is on disk; the same command again gives the same weights."""
    script = (
        "import sys; from pathlib import Path;"
        "from keras_transformer.recipes.classify import TrainSettings, train;"
        f"train(TrainSettings(data=Path(sys.argv[1]), out=Path(sys.argv[2]), **{TEACHER}))"
    )
    killed, state = tmp_path / "killed", tmp_path / "killed.partial" / "state.safetensors"
    program, deadline = forked.start(script, files / "reviews.csv", killed), time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.kill(program.pid, signal.SIGKILL)
    ended = program.wait()
    assert state.exists(), ended.stderr
    assert not killed.exists()
    train(TrainSettings(data=files / "reviews.csv", out=killed, **TEACHER))
    undisturbed, goes_on = (bundle.load(folder).model.get_weights() for folder in (teacher[0], killed))
    assert all(np.array_equal(one, two) for one, two in zip(undisturbed, goes_on, strict=True))
    assert not state.parent.exists()


def interrupted(settings, monkeypatch):
    """Run `train` until its state is on disk and it is about to score: what a kill at that moment leaves."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job.Job, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train(TrainSettings(**settings))
    assert (settings["out"].with_name("out.partial") / "state.safetensors").exists()


@pytest.fixture(scope="module")
def left(files):
    """The settings of a run that was killed when it was about to score."""
    settings = {
        "data": files / "reviews.csv",
        "out": files / "left" / "out",
        "size": "tiny",
        "epochs": 1,
        "quiet": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        interrupted(settings, patch)
    return settings


@pytest.mark.parametrize(
    ("change", "message"), [({"epochs": 2}, "epochs was 1 and now is 2"), ({"seed": 3}, "seed was '0'")]
)
def test_a_killed_run_is_not_continued_with_other_options(left, change, message):
    before = (left["out"].with_name("out.partial") / "state.safetensors").read_bytes()
    with pytest.raises(UserError, match=rf"out\.partial: holds the state of another run, whose {message}"):
        train(TrainSettings(**{**left, **change}))
    assert not left["out"].exists()
    assert (left["out"].with_name("out.partial") / "state.safetensors").read_bytes() == before


def test_a_killed_run_goes_on_with_what_it_decided_on_a_faster_machine(files, tmp_path, monkeypatch, capsys):
    speeds = iter([2e9, 5e12])
    monkeypatch.setattr(job.cost, "operations_per_second", lambda policy: next(speeds))
    settings = {"data": files / "reviews.csv", "out": tmp_path / "out", "size": "tiny", "epochs": 7, "minutes": 0.05}
    interrupted(settings, monkeypatch)
    first = re.search(r"(\d+) of 216 texts, .* (\d+) epochs", capsys.readouterr().err)
    assert first.groups() != ("216", "7")  # the minutes did cut the work
    told = train(TrainSettings(**settings))
    assert (str(told["rows"]), str(told["epochs"])) == first.groups()
    assert "going on where it was killed" in capsys.readouterr().err
    assert not (tmp_path / "out.partial").exists()


def test_a_damaged_state_is_told(files, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "state.safetensors").write_bytes(b"no state")
    with pytest.raises(UserError, match=r"out\.partial.*Delete the folder"):
        train(TrainSettings(data=files / "reviews.csv", out=tmp_path / "out", size="tiny", epochs=1, quiet=True))


def test_a_partial_folder_that_someone_else_made_is_left_alone(files, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match=r"out\.partial: .* holds 'notes\.txt'\. Move that away"):
        train(TrainSettings(data=files / "reviews.csv", out=tmp_path / "out", quiet=True))
    assert (tmp_path / "out.partial" / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "teacher", "size": "tiny"}, "--size tiny: a student cut out of its teacher"),
        ({"init": "minilm"}, "--init minilm: a student is cut out of its teacher, or starts from nothing"),
        ({"max_length": 500}, r"the teacher was trained on texts of up to \d+ word pieces"),
    ],
)
def test_a_student_that_cannot_be_is_refused(files, teacher, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        distill(
            DistillSettings(teacher=teacher[0], data=files / "reviews.csv", out=tmp_path / "out", quiet=True, **change)
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("text,label\na film,good\nno film,good\na,good\nb,good\n", {}, "all 4 rows are 'good'"),
        ("text,label\na,good\nb,bad\n", {}, "has 2 labelled rows"),
        ("text,label\na,x\nb,y\nc,x\nd,y\n", {"init": "nowhere"}, "--init nowhere: is neither a run folder"),
        ("text,label\na,x\nb,y\nc,x\nd,y\n", {"init": "minilm", "size": "tiny"}, "--size tiny.*Leave --size out"),
        ("text,label\na,x\nb,y\nc,x\nd,y\n", {"max_length": 1000}, "--max-length 1000.*Use 512 or less"),
    ],
)
def test_a_mistake_in_the_file_or_the_options_is_told_and_nothing_is_written(tmp_path, content, changes, message):
    data = tmp_path / "data.csv"
    data.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        train(TrainSettings(**{"data": data, "out": tmp_path / "out", "quiet": True, **changes}))
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


def test_a_label_that_the_teacher_never_saw_is_refused(teacher, tmp_path):
    columns = {"text": ["a", "b", "c", "d"], "label": ["positive", "other", "great", "other"]}
    data = write_csv(tmp_path / "data.csv", columns)
    with pytest.raises(UserError, match="the label 'great' is none of the trained ones"):
        distill(DistillSettings(teacher=teacher[0], data=data, out=tmp_path / "out", quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_other_things_is_left_alone(files, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="precious"):
        train(TrainSettings(data=files / "reviews.csv", out=tmp_path, quiet=True))
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_the_command_in_the_manifest_is_the_one_that_made_the_folder(files, teacher):
    manifest = json.loads((teacher[0] / "manifest.json").read_text())
    data, out = files / "reviews.csv", teacher[0]
    expected = f"keras-transformer train classify --data {data} --out {out} --size tiny --epochs 3"
    assert manifest["command"] == expected
    settings = DistillSettings(teacher=out, data=data, out=files / "s", init="none", size="tiny")
    assert command(settings) == (
        f"keras-transformer distill {out} --data {data} --out {files / 's'} --init none --size tiny"
    )
