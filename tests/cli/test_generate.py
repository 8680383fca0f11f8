"""Commands on models that write texts: options passed on, one line in and one line out, JSON keys, mistakes."""

import functools
import json
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_transformer import bundle, generation
from keras_transformer.checks import UserError
from keras_transformer.cli import app
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.files import ModelFileError

TEXTS = ["a fine film", "dull, dull", "naïve 🙂 עברית"]


def run(*arguments: object, stdin: str | bytes | None = None):
    """Run a command in this process; an error that isn't about the options gets through."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def only_json(result) -> dict:
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def save(folder, model, tokenizer, task):
    arguments = {"max_length": 16, "metrics": {}, "command": f"keras-transformer train {task}"}
    bundle.save(folder, model=model, tokenizer=tokenizer, task=task, **arguments)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A translator and a language model of random weights."""
    import keras

    from keras_transformer.models import CausalLM, Seq2Seq

    keras.utils.set_random_seed(3)
    folder, tokenizer = tmp_path_factory.mktemp("writers"), ReversibleTokenizer.learn(TEXTS, 300)
    size = (tokenizer.vocab_size, 1, 8, 2, 11)
    translator = save(folder / "translator", Seq2Seq(*size), tokenizer, "translate")
    return translator, save(folder / "lm", CausalLM(*size, max_length=16), tokenizer, "language-model")


@pytest.fixture(params=["translate", "language-model"])
def writer(folders, request):
    return folders[request.param == "language-model"]


@pytest.fixture
def loaded_once(monkeypatch):
    """The first command of a test loads the folder, and what it has traced serves the others."""
    monkeypatch.setattr(generation, "load", functools.cache(generation.load))


@pytest.mark.parametrize("options", [(), ("--beam", 3), ("--temperature", 1.5, "--top-p", 0.9, "--seed", 4)])
def test_a_line_in_is_a_line_out(writer, options, loaded_once):
    options = (*options, "--max-tokens", 5)
    from_stdin = run("generate", writer, *options, stdin="\n".join(TEXTS)).stdout
    assert from_stdin == run("generate", writer, *TEXTS, *options).stdout
    assert from_stdin.count("\n") == 3
    content = only_json(run("generate", writer, *options, "--json", stdin="\n".join(TEXTS) + "\n"))
    assert [one["text"] for one in content["outputs"]] == TEXTS
    assert all(set(one) == {"text", "output"} for one in content["outputs"])


def test_more_lines_than_one_call_takes_keep_their_order_and_their_seeds(folders, loaded_once):
    options = ("--temperature", 1.5, "--max-tokens", 3)
    many = run("generate", folders[1], *options, stdin="\n".join(TEXTS[:2] * 40)).stdout
    content = only_json(run("generate", folders[1], *options, "--json", stdin="\n".join(TEXTS[:2] * 40)))
    assert len(content["outputs"]) == 80
    assert all(one["output"].startswith(one["text"]) for one in content["outputs"])
    assert many.count("\n") == 80


def test_a_line_of_spaces_is_named_and_the_others_stay_beside_their_answers(folders):
    result = CliRunner().invoke(app, ["generate", str(folders[0])], input="fine\n \ndull\n")
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("line 2 is ' ': there is nothing to read in it. Give at least a word.")
    fine, dull = run("generate", folders[0], "fine", "dull").stdout.splitlines()
    assert result.stdout == f"{fine}\n\n{dull}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beam", 4, "--temperature", 0.7), r"--beam 4 with --temperature 0\.7: a beam search looks"),
        (("--temperature", "nan"), "--temperature=nan must be finite and above 0"),
        (("--top-p", 2), r"--top-p=2\.0 must be above 0"),
        (("--max-tokens", 16), r"--max-tokens 16: the model has room for 16 word pieces.* Use 15 or less"),
    ],
)
def test_options_that_cannot_be_are_refused(folders, options, message):
    with pytest.raises(ValueError, match=message):
        run("generate", folders[1], "fine", *options)


@pytest.mark.parametrize("option", ["--beam", "--top-k", "--max-tokens"])
def test_nothing_of_something_is_refused(folders, option):
    result = run("generate", folders[0], "fine", option, "0")
    assert result.exit_code == 2
    assert "greater than or equal to 1" in result.stderr


@pytest.mark.parametrize("command", [("generate", "x"), ("train", "translate", "--data", __file__, "--out", "x")])
def test_a_seed_that_no_generator_takes_is_refused(folders, command):
    folder = [folders[0]] if command[0] == "generate" else []
    result = run(command[0], *folder, *command[1:], "--seed", 2**32)
    assert result.exit_code == 2
    assert "less than or equal to 4294967295" in result.stderr


def test_a_model_of_another_task_is_refused_by_each_command(folders, small_bundle, tmp_path):
    with pytest.raises(ModelFileError, match="was trained for 'classify', and it takes 'translate' or"):
        run("generate", small_bundle, "fine")
    for folder in folders:
        with pytest.raises(ModelFileError, match="and 'classify' is needed here"):
            run("predict", folder, "fine")


def data(folder, **columns):
    """A file of these columns, one row a text."""
    path = folder / "data.jsonl"
    columns = columns or {"text": TEXTS, "source": TEXTS, "target": TEXTS[::-1]}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_translator_is_evaluated_with_bleu(folders, tmp_path):
    plain = only_json(run("evaluate", folders[0], "--data", data(tmp_path), "--json"))
    assert set(plain) == {"bleu", "chrf", "n", "signature"}
    assert plain["n"] == 3
    path = data(tmp_path, german=TEXTS, english=TEXTS[::-1])
    columns = ("--source-column", "german", "--target-column", "english")
    assert only_json(run("evaluate", folders[0], "--data", path, *columns, "--beam", 2, "--json"))["n"] == 3


def test_a_language_model_is_evaluated_with_its_perplexity(folders, tmp_path):
    scores = only_json(run("evaluate", folders[1], "--data", data(tmp_path), "--json"))
    assert set(scores) == {"perplexity", "perplexity_word", "perplexity_byte", "bits_per_byte", "n"}
    assert scores["n"] == 3
    assert scores["perplexity"] > 1
    line = run("evaluate", folders[1], "--data", data(tmp_path)).stdout
    assert line.startswith(f"{folders[1]}: perplexity ")


@pytest.mark.parametrize("command", ["evaluate", "distill"])
def test_only_a_translator_searches(folders, small_bundle, tmp_path, command):
    for folder in (folders[1], small_bundle):
        out = ("--out", tmp_path / "out") if command == "distill" else ()
        with pytest.raises(UserError, match=r"--beam 2: the .* was trained for .*, and only a translator searches"):
            run(command, folder, "--data", data(tmp_path), "--beam", 2, *out)


def test_more_texts_without_labels_are_no_use_to_a_language_model(folders, tmp_path):
    path = data(tmp_path)
    with pytest.raises(UserError, match=r"no text of a language model has a label\. Put these texts into --data"):
        run("distill", folders[1], "--data", path, "--out", tmp_path / "out", "--unlabelled", path)


@pytest.fixture
def recipes(monkeypatch):
    """Stand-ins for the recipes, which keep what they are called with."""
    called = {}

    def recipe(name):
        def work(step):
            return lambda settings: called.update({name: (step, settings)}) or {"n": 1}

        return types.SimpleNamespace(
            TrainSettings=dict, DistillSettings=dict, train=work("train"), distill=work("distill")
        )

    module = types.ModuleType("keras_transformer.recipes")
    module.translate, module.language_model = recipe("translate"), recipe("language-model")
    monkeypatch.setitem(sys.modules, "keras_transformer.recipes", module)
    return called


SHARED = ("--size", "base", "--epochs", 3, "--batch-size", 17, "--max-length", 41, "--learning-rate", 5e-4)
PASSED = {"size": "base", "epochs": 3, "batch_size": 17, "max_length": 41, "learning_rate": 5e-4, "minutes": None}


def test_train_passes_on_the_options_of_its_task(recipes, tmp_path):
    path = data(tmp_path)
    columns = ("--source-column", "a", "--target-column", "b", "--text-column", "c")
    for task in ("translate", "language-model"):
        run("train", task, "--data", path, "--out", "x", *SHARED, *columns, "--quiet")
    common = {**PASSED, "data": path, "out": Path("x"), "init": "none", "seed": 0, "quiet": True}
    assert recipes == {
        "translate": ("train", {**common, "source_column": "a", "target_column": "b"}),
        "language-model": ("train", {**common, "text_column": "c"}),
    }


def test_distill_asks_the_teacher_for_its_task(recipes, folders, tmp_path):
    path = data(tmp_path)
    for folder, more in zip(folders, (("--beam", 5, "--unlabelled", path), ()), strict=True):
        run("distill", folder, "--data", path, "--out", "x", *SHARED, *more, "--seed", 8)
    common = {**PASSED, "data": path, "out": Path("x"), "init": None, "seed": 8, "quiet": False}
    pairs = {"source_column": "source", "target_column": "target", "beam": 5, "unlabelled": path}
    assert recipes == {
        "translate": ("distill", {**common, **pairs, "teacher": folders[0]}),
        "language-model": ("distill", {**common, "text_column": "text", "teacher": folders[1]}),
    }


@pytest.mark.parametrize("task", ["translate", "language-model"])
def test_a_size_that_does_not_exist_is_refused(recipes, tmp_path, task):
    result = run("train", task, "--data", data(tmp_path), "--out", "x", "--size", "huge")
    assert result.exit_code == 2
    assert "'huge' is not one of 'tiny', 'small', 'base'" in result.stderr
    assert recipes == {}
