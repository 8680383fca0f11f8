"""Each command passes on what was typed and prints one result; recipes are replaced, models are tiny."""

import json
import re
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_transformer import serving
from keras_transformer.checks import UserError
from keras_transformer.cli import app
from keras_transformer.report import ModelRow, ParityRow, Report


def run(*arguments: object, stdin: str | bytes | None = None):
    """Run a command in this process; an error that isn't about the options gets through."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def only_json(result) -> dict:
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


@pytest.fixture
def reviews(tmp_path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\na fine film,positive\na dull film,negative\nnot funny,neutral\nfunny,positive\n")
    return path


@dataclass
class Recorded:
    """What a stand-in recipe was called with."""

    settings: dict = field(default_factory=dict)


@pytest.fixture
def recipe(monkeypatch) -> Recorded:
    """Stand-ins for both recipes, as chatty as a library can be."""
    recorded = Recorded()

    def keep(**settings):
        recorded.settings = settings
        return settings

    def work(settings):
        print("a library that talks to standard output")
        print("Epoch 1/2", file=sys.stderr)
        return {"accuracy": 0.8675, "recall": 0.8674, "f1": 0.8673, "n": 2014, "seconds": 61.25}

    def demo(out, **settings):
        recorded.settings = {"out": out, **settings}
        work(settings)
        row = ModelRow("teacher", "keras", 0.875, 0.874, 0.8744, 22_713_602, 90_953_216, 27.4, 41.2)
        student = ModelRow("student_distilled", "tflite_int8", 0.861, 0.86, 0.86, 1_430_017, 1_551_234, 0.18, 0.2)
        parity = [ParityRow("tflite_int8", 0.12, 0.992, [])]
        return Report(412.0, settings["seed"], {"train": 5, "test": 3, "unlabelled": 2}, [row, student], parity)

    def write_data(folder):
        recorded.settings = {"folder": folder}
        return {"train": 8056, "test": 2014, "unlabelled": 13098}

    classify = types.SimpleNamespace(TrainSettings=keep, DistillSettings=keep, train=work, distill=work)
    sentiment = types.SimpleNamespace(demo=demo, write_data=write_data)
    recipes = types.ModuleType("keras_transformer.recipes")
    recipes.classify, recipes.sentiment = classify, sentiment
    monkeypatch.setitem(sys.modules, "keras_transformer.recipes", recipes)
    return recorded


def test_train_passes_on_every_option(recipe, reviews):
    result = run(
        *("train", "classify", "--data", reviews, "--init", "minilm", "--size", "tiny", "--out", "runs/teacher"),
        *("--epochs", 3, "--batch-size", 17, "--max-length", 41, "--learning-rate", 5e-4, "--minutes", 2.5),
        *("--seed", 7, "--text-column", "review", "--label-column", "stars", "--quiet"),
    )
    assert recipe.settings == {
        "data": reviews,
        "out": Path("runs/teacher"),
        "init": "minilm",
        "size": "tiny",
        "epochs": 3,
        "batch_size": 17,
        "max_length": 41,
        "learning_rate": 5e-4,
        "minutes": 2.5,
        "seed": 7,
        "text_column": "review",
        "label_column": "stars",
        "quiet": True,
    }
    assert result.stdout == ("runs/teacher: accuracy 0.8675, recall 0.8674, f1 0.8673, n 2014, seconds 61.25\n")


def test_what_is_not_given_follows_the_data(recipe, reviews):
    run("train", "classify", "--data", reviews, "--out", "runs/teacher")
    chosen = {name for name, value in recipe.settings.items() if value is not None}
    assert chosen == {"data", "out", "init", "seed", "text_column", "label_column", "quiet"}
    assert recipe.settings["init"] == "none"


def test_distill_passes_on_the_teacher_and_the_unlabelled_texts(recipe, reviews, small_bundle):
    arguments = ("distill", small_bundle, "--data", reviews, "--unlabelled", reviews, "--out", "runs/student")
    content = only_json(run(*arguments, "--json"))
    assert content["folder"] == "runs/student"
    assert content["accuracy"] == 0.8675
    assert recipe.settings["teacher"] == small_bundle
    assert recipe.settings["unlabelled"] == reviews
    assert recipe.settings["out"] == Path("runs/student")
    assert recipe.settings["init"] is None


def test_progress_goes_to_standard_error_and_quiet_silences_it(recipe, reviews):
    loud = run("train", "classify", "--data", reviews, "--out", "x", "--json")
    assert loud.stderr == "a library that talks to standard output\nEpoch 1/2\n"
    quiet = run("train", "classify", "--data", reviews, "--out", "x", "--json", "--quiet")
    assert quiet.stderr == ""
    assert only_json(loud) == only_json(quiet)


def test_a_task_that_does_not_exist_is_answered_with_those_that_do(recipe, reviews):
    with pytest.raises(
        ValueError, match=r"TASK='transalte' must be one of \['classify', 'translate', 'language-model'"
    ):
        run("train", "transalte", "--data", reviews, "--out", "x")
    assert recipe.settings == {}


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--size", "huge", "'huge' is not one of 'tiny', 'small', 'base'"),
        ("--epochs", "0", "greater than or equal to 1"),
        ("--epochs", "many", "valid integer"),
        ("--max-length", "2", "greater than or equal to 3"),
        ("--data", "nowhere.csv", "does not exist"),
        ("--seed", "-1", "greater than or equal to 0"),
    ],
)
def test_a_wrong_option_ends_with_code_2_before_anything_starts(recipe, reviews, option, value, words):
    arguments = ["train", "classify", "--data", str(reviews), "--out", "x", option, value]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert words in result.stderr
    assert recipe.settings == {}


@pytest.mark.parametrize(("option", "value"), [("--learning-rate", "nan"), ("--minutes", "0"), ("--minutes", "inf")])
def test_numbers_that_are_no_amounts_are_refused(recipe, reviews, option, value):
    with pytest.raises(ValueError, match=rf"{option}=.* must be finite and above 0\. Use for example {option}="):
        run("train", "classify", "--data", reviews, "--out", "x", option, value)
    assert recipe.settings == {}


def test_demo_prints_the_tables_and_where_the_report_is(recipe, tmp_path):
    result = run("demo", "--out", tmp_path, "--seed", 3, "--quick")
    assert recipe.settings == {"out": tmp_path, "seed": 3, "quick": True, "quiet": False}
    for words in ("3 test texts, seed 3", "TFLite int8", "0.861", "same answer", "99.20%", "keeps 98.4%"):
        assert words in result.stdout
    assert f"{tmp_path / 'report.json'}\n" in result.stdout


def test_demo_prints_its_report_as_json(recipe):
    content = only_json(run("demo", "--json"))
    assert Report.from_json(content).models[1].format == "tflite_int8"
    assert recipe.settings["out"] == Path("saved_models/sentiment")


def test_demo_can_only_write_the_data(recipe, tmp_path):
    assert run("demo", "--write-data", tmp_path).stdout == (f"{tmp_path}: train 8056, test 2014, unlabelled 13098\n")
    content = only_json(run("demo", "--write-data", tmp_path, "--json"))
    assert content == {"folder": str(tmp_path), "rows": {"train": 8056, "test": 2014, "unlabelled": 13098}}


def test_every_form_scores_the_same(small_bundle, small_tflite, small_saved_model, reviews):
    scores = [only_json(run("evaluate", path, "--data", reviews, "--json")) for path in (small_bundle, small_tflite)]
    scores.append(only_json(run("evaluate", small_saved_model, "--data", reviews, "--json")))
    assert scores[0] == scores[1] == scores[2]
    assert set(scores[0]) == {"accuracy", "recall", "f1", "n"}
    assert scores[0]["n"] == 4


def test_evaluate_prints_one_line_for_people(small_tflite, reviews):
    result = run("evaluate", small_tflite, "--data", reviews)
    assert result.stdout.startswith(f"{small_tflite}: accuracy 0.")
    assert result.stdout.endswith("n 4\n")


def test_evaluate_reads_other_columns(small_tflite, tmp_path):
    path = tmp_path / "stars.tsv"
    path.write_text("stars\treview\nneutral\ta film\n")
    arguments = ("--text-column", "review", "--label-column", "stars", "--json")
    assert only_json(run("evaluate", small_tflite, "--data", path, *arguments))["n"] == 1


def test_a_label_that_training_never_saw_is_named(small_tflite, reviews):
    reviews.write_text("text,label\na fine film,positive\na dull film,awful\n")
    with pytest.raises(UserError, match=r"row 2: the label 'awful' is none of the trained ones \['negative'"):
        run("evaluate", small_tflite, "--data", reviews)


def test_predict_prints_a_label_and_its_score_for_each_text(small_tflite):
    lines = run("predict", small_tflite, "a fine film", "dull, dull").stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        label, score = line.split("\t")
        assert label in ("negative", "neutral", "positive")
        assert 1 / 3 < float(score) <= 1


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_a_line_in_is_a_line_out(small_tflite, ends, last):
    texts = ["a fine film", "dull", "naïve 🙂 עברית", "x" * 100_000]
    lines = ends.join(texts) + (ends if last else "")
    from_stdin = run("predict", small_tflite, stdin=lines).stdout
    assert from_stdin == run("predict", small_tflite, *texts).stdout
    assert from_stdin.count("\n") == 4


def test_more_lines_than_one_call_takes_keep_their_order(small_tflite):
    texts = ["a fine film", "dull", "funny!"] * 50
    from_stdin = run("predict", small_tflite, stdin="\n".join(texts)).stdout
    three = run("predict", small_tflite, *texts[:3]).stdout
    assert from_stdin == three * 50


def test_no_line_in_is_no_line_out(small_tflite):
    assert run("predict", small_tflite, stdin="").stdout == ""


@pytest.mark.parametrize("blank", ["", "   ", "\t"])
def test_a_text_of_spaces_is_named_by_its_line_and_the_other_lines_stay_beside_their_answers(small_tflite, blank):
    result = CliRunner().invoke(app, ["predict", str(small_tflite)], input=f"fine\n{blank}\ndull\n{blank}\n")
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == (
        f"line 2 is {blank!r}: there is nothing to read in it. Give at least a word. "
        "Without an answer: 2 of 4 lines, each an empty line in the output."
    )
    fine, dull = run("predict", small_tflite, "fine", "dull").stdout.splitlines()
    assert result.stdout == f"{fine}\n\n{dull}\n\n"


@pytest.mark.parametrize("arguments", [["fine", " "], ["fine", "--json", " "]])
def test_a_text_of_spaces_on_the_command_line_is_refused_before_any_answer(small_tflite, arguments):
    result = CliRunner().invoke(app, ["predict", str(small_tflite), *arguments])
    assert str(result.exception) == "text 2 is ' ': there is nothing to read in it. Give at least a word."
    assert result.stdout == ""


def test_json_is_printed_whole_or_not_at_all(small_tflite):
    result = CliRunner().invoke(app, ["predict", str(small_tflite), "--json"], input="fine\n\n")
    assert str(result.exception).startswith("line 2 is '': there is nothing to read in it.")
    assert result.stdout == ""


def test_a_line_that_is_not_utf_8_is_shown_and_the_others_are_answered(small_tflite):
    result = CliRunner().invoke(app, ["predict", str(small_tflite)], input=b"caf\xe9\nfine\n")
    assert re.match(r"line 1: the line b'caf\\xe9' isn't UTF-8 .* Convert the input to UTF-8\.", str(result.exception))
    assert result.stdout == "\n" + run("predict", small_tflite, "fine").stdout


def test_a_label_with_a_tab_or_a_line_end_stays_one_field_of_one_line(small_tflite, monkeypatch):
    real = serving.load(small_tflite)
    real.labels = ["a\tb\nc\rd"] * 3
    monkeypatch.setattr(serving, "load_classifier", lambda path: real)
    label, score = run("predict", small_tflite, "fine").stdout.removesuffix("\n").split("\t")
    assert label == r"a\tb\nc\rd"
    assert float(score) > 0


def test_predict_as_json_has_the_score_of_every_label(small_tflite):
    (one,) = only_json(run("predict", small_tflite, "a fine film", "--json"))["predictions"]
    assert set(one["scores"]) == {"negative", "neutral", "positive"}
    assert sum(one["scores"].values()) == pytest.approx(1, abs=1e-6)
    assert one["scores"][one["label"]] == one["score"] == max(one["scores"].values())


def test_export_writes_a_file_that_answers_like_the_run_folder(small_bundle, tmp_path):
    path = tmp_path / "new" / "small.tflite"
    content = only_json(run("export", small_bundle, "--format", "tflite", "--out", path, "--json"))
    assert content["path"] == str(path)
    assert content["format"] == "tflite_int8"
    assert content["flex_ops"] == []
    assert content["bytes"] == path.stat().st_size
    text = "a fine and funny film"
    assert run("predict", path, text).stdout.split("\t")[0] == run("predict", small_bundle, text).stdout.split("\t")[0]


def test_export_takes_its_examples_from_a_file(small_bundle, reviews, tmp_path):
    result = run("export", small_bundle, "--format", "saved_model", "--out", tmp_path / "served", "--data", reviews)
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
    assert result.stdout.endswith("same answer 100.00% of 4 texts\n")


def test_an_int8_file_that_few_texts_were_tried_on_says_so(small_bundle, reviews, tmp_path):
    out = tmp_path / "small.tflite"
    few = run("export", small_bundle, "--format", "tflite", "--out", out, "--data", reviews).stdout
    assert few.endswith("% of 4 texts (few texts prove little: give 50 or more with --data)\n")
    reviews.write_text("text\n" + "a fine film\n" * 50)
    many = run("export", small_bundle, "--format", "tflite", "--out", out, "--data", reviews).stdout
    assert many.endswith("same answer 100.00% of 50 texts\n")


def test_export_mixes_bits_for_the_bytes_that_there_are(small_bundle, reviews, tmp_path):
    arguments = ("export", small_bundle, "--format", "tflite", "--data", reviews, "--json")
    dynamic = only_json(run(*arguments, "--out", tmp_path / "dynamic.tflite"))
    mixed = ("--quantize", "mixed", "--max-bytes")
    content = only_json(run(*arguments, "--out", tmp_path / "m.tflite", *mixed, dynamic["bytes"] - 101))
    assert content["format"] == "tflite_mixed"
    assert content["bytes"] == (tmp_path / "m.tflite").stat().st_size <= dynamic["bytes"] - 101
    with pytest.raises(UserError, match=r"max_bytes=17 can't be met: .* Use max_bytes=\d+ or more"):
        run(*arguments, "--out", tmp_path / "none.tflite", *mixed, 17)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("small.bin", ["tflite"], r"a TFLite file ends in \.tflite\. Use --out \S*small\.tflite"),
        ("there.tflite", ["tflite"], "is a folder, and a TFLite file is to be written"),
        ("small.tflite", ["saved_model"], "is the name of a file, and a SavedModel is a folder"),
        ("notes", ["saved_model"], "is the name of a file, and a SavedModel is a folder"),
        ("run", ["saved_model"], "is a run folder. Give the SavedModel a folder of its own"),
        ("x", ["saved_model", "--quantize", "int8"], "--quantize int8: is for --format tflite"),
        ("x.tflite", ["tflite", "--quantize", "mixed"], "--quantize mixed: needs --max-bytes, .* for example 50000"),
        ("x.tflite", ["tflite", "--max-bytes", 1009], "--max-bytes 1009: is for --quantize mixed alone"),
    ],
)
def test_a_place_that_cannot_take_the_export_is_refused_at_once(small_bundle, tmp_path, out, options, message):
    (tmp_path / "there.tflite").mkdir()
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=message):
        run("export", small_bundle, "--out", tmp_path / out, "--format", *options)
    assert (tmp_path / "notes").read_text() == "mine"


def test_export_of_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no bundle"):
        run("export", tmp_path, "--format", "tflite", "--out", tmp_path / "a.tflite")


def test_the_names_of_the_commands_are_a_contract():
    names = [command.callback.__name__ for command in app.registered_commands]
    assert names == [
        *("demo", "train", "distill", "compress", "export", "evaluate", "predict", "generate", "benchmark", "serve")
    ]


@pytest.mark.parametrize(
    "command",
    ["train", "distill", "compress", "export", "evaluate", "predict", "generate", "demo", "benchmark", "serve"],
)
def test_every_command_has_help_json_and_quiet(command):
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120", "TERM": "dumb"})
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "--quiet" in result.stdout


def test_the_sizes_and_number_formats_of_the_options_are_those_of_the_library():
    from typing import get_args

    from keras_transformer import models
    from keras_transformer.cli.export import Quantize
    from keras_transformer.cli.options import SIZES, Size
    from keras_transformer.export import QUANTIZATIONS

    assert get_args(Quantize) == (*QUANTIZATIONS, "mixed")
    for name in get_args(Size):
        size = getattr(models, name.upper())
        assert f"{name} {size.num_layers} x {size.model_dim}" in SIZES


def test_the_settings_of_the_recipes_have_a_field_for_each_option():
    from dataclasses import fields

    from keras_transformer.recipes import classify, language_model, translate

    shared = {"data", "out", "init", "size", "epochs", "batch_size", "max_length", "learning_rate", "minutes", "seed"}
    for recipe, own, more in (
        (classify, {"text_column", "label_column"}, {"teacher", "unlabelled"}),
        (translate, {"source_column", "target_column"}, {"teacher", "unlabelled", "beam"}),
        (language_model, {"text_column"}, {"teacher"}),
    ):
        assert {one.name for one in fields(recipe.TrainSettings)} == shared | own | {"quiet"}
        assert {one.name for one in fields(recipe.DistillSettings)} == shared | own | more | {"quiet"}
