"""`export` of what writes texts, and `generate` and `evaluate` on the file and the folder that it writes."""

import json

import pytest
from typer.testing import CliRunner

from keras_transformer import benchmark, bundle, export
from keras_transformer.checks import UserError
from keras_transformer.cli import app
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.files import ModelFileError

TEXTS = ["a fine film", "dull, dull", "naïve 🙂 עברית"]


def run(*arguments: object):
    """Run a command in this process; an error that isn't about the options gets through."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A translator and a language model of random weights."""
    import keras

    from keras_transformer.models import CausalLM, Seq2Seq

    keras.utils.set_random_seed(3)
    folder, tokenizer = tmp_path_factory.mktemp("exported"), ReversibleTokenizer.learn(TEXTS, 300)
    size = (tokenizer.vocab_size, 1, 8, 2, 11)
    for name, model in (("translate", Seq2Seq(*size)), ("language-model", CausalLM(*size, max_length=16))):
        arguments = {"max_length": 16, "metrics": {}, "command": f"keras-transformer train {name}", "examples": TEXTS}
        bundle.save(folder / name, model=model, tokenizer=tokenizer, task=name, **arguments)
    return folder


@pytest.fixture(scope="module")
def exported(folders):
    """The file of the language model, and the report of the command that wrote it."""
    path = folders / "lm.tflite"
    options = ("--format", "tflite", "--quantize", "none", "--out", path, "--json")
    return path, json.loads(run("export", folders / "language-model", *options))


def test_the_report_says_how_much_stayed_the_same(exported):
    path, report = exported
    assert set(report) == {
        *("path", "format", "bytes", "max_abs_logit_error", "top1_agreement", "operators", "flex_ops"),
        *("same_texts", "texts"),
    }
    assert (report["path"], report["same_texts"], report["texts"]) == (str(path), 1.0, 3)


@pytest.fixture
def writers(monkeypatch):
    """Stand-ins for the exports, which keep what they are called with."""
    called = {}

    def writer(name):
        def write(model, path, **options):
            called[name] = (type(model).__name__, path, options.pop("tokenizer").vocab_size, options)
            numbers = {"bytes": 7, "max_abs_logit_error": 2e-3, "top1_agreement": 0.98, "same_texts": 0.75, "texts": 3}
            return export.WritingReport(path=str(path), format="tflite_int8", operators=[], flex_ops=[], **numbers)

        return write

    for name in ("saved_model_writer", "tflite_writer"):
        monkeypatch.setattr(export, name, writer(name))
    return called


def test_export_passes_on_what_belongs_to_the_task(folders, writers, tmp_path):
    line = run("export", folders / "language-model", "--format", "tflite", "--out", tmp_path / "m.tflite")
    run("export", folders / "translate", "--format", "saved_model", "--out", tmp_path / "m")
    size, common = ReversibleTokenizer.learn(TEXTS, 300).vocab_size, {"max_length": 16, "examples": TEXTS}
    options = {**common, "task": "language-model", "quantize": "dynamic"}
    assert writers == {
        "tflite_writer": ("CausalLM", tmp_path / "m.tflite", size, options),
        "saved_model_writer": ("Seq2Seq", tmp_path / "m", size, {**common, "task": "translate"}),
    }
    assert line.startswith(f"{tmp_path / 'm.tflite'}: bytes 7, largest logit error 2.0e-03, same token 98.00%, same te")
    assert "same text 75.00% of 3 texts (few texts prove little: give 50 or more with --data)" in line


@pytest.mark.parametrize("form", ["tflite", "saved_model"])
def test_export_makes_less_room_if_so_asked_and_never_more(folders, writers, tmp_path, form):
    out = tmp_path / ("m.tflite" if form == "tflite" else "m")
    arguments = ("export", folders / "translate", "--format", form, "--out", out, "--max-length")
    run(*arguments, 11)
    assert writers[f"{form}_writer"][-1]["max_length"] == 11
    with pytest.raises(UserError, match=r"--max-length 17: .* of up to 16 word pieces, .* Use 16 or less, or leave it"):
        run(*arguments, 17)
    result = CliRunner().invoke(app, [*map(str, arguments), "2"])
    assert result.exit_code == 2
    assert "greater than or equal to 3" in " ".join(result.stderr.split())


def test_the_file_writes_what_the_run_folder_writes(folders, exported):
    path, folder = exported[0], folders / "language-model"
    for options in ((), ("--beam", 3), ("--max-tokens", 5)):
        assert run("generate", path, *TEXTS, *options) == run("generate", folder, *TEXTS, *options)
    drawn = ("--temperature", 1.5, "--max-tokens", 5, "--seed", 4)
    assert run("generate", path, *TEXTS, *drawn) == run("generate", path, *TEXTS, *drawn)
    found = json.loads(run("generate", path, *TEXTS, "--json"))
    assert [one["text"] for one in found["outputs"]] == TEXTS


def test_the_file_has_the_scores_of_the_run_folder(folders, exported, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    ours, theirs = (
        json.loads(run("evaluate", place, "--data", data, "--json"))
        for place in (exported[0], folders / "language-model")
    )
    assert ours == pytest.approx(theirs, rel=1e-5)
    with pytest.raises(UserError, match=r"--beam 2: .* only a translator searches"):
        run("evaluate", exported[0], "--data", data, "--beam", 2)


def test_a_file_that_writes_is_no_classifier(exported):
    with pytest.raises(ModelFileError, match=r"lm\.tflite: was trained for 'language-model', and it takes 'classify'"):
        run("predict", exported[0], *TEXTS)


def test_benchmark_tells_what_a_text_and_a_token_cost(exported, tmp_path):
    (one,) = json.loads(run("benchmark", exported[0], "--rounds", 1, "--json"))["models"]
    assert 0 < one["latency_ms_per_token_p50"] < one["latency_ms_p50"]
    assert one["latency_ms_per_token_p50"] <= one["latency_ms_per_token_p95"]
    assert one["task"] == "language-model"
    text = run("benchmark", exported[0], "--rounds", 1)
    assert "p50/tok" in text
    assert "texts/s" not in text
    assert "drawn" not in text


def test_benchmark_draws_as_generate_does(exported):
    drawn = ("benchmark", exported[0], "--rounds", 1, "--temperature", 1.5, "--top-k", 9, "--seed", 4)
    content = json.loads(run(*drawn, "--json"))
    assert [content[name] for name in ("temperature", "top_p", "top_k", "seed")] == [1.5, None, 9, 4]
    assert "20 texts, drawn, 1 rounds" in run(*drawn)
    with pytest.raises(ValueError, match=r"--top-p=2\.0 must be above 0 and at most 1"):
        run("benchmark", exported[0], "--top-p", 2.0)


def test_benchmark_reads_the_column_that_belongs_to_the_task(folders, exported, tmp_path, monkeypatch):
    data, asked = tmp_path / "pairs.csv", []
    data.write_text("source,text\na,b\nc,d\n")

    def measure(paths, texts, **options):
        asked.append(texts)
        raise UserError("enough")

    monkeypatch.setattr(benchmark, "measure", measure)
    for path, options in ((folders / "translate", ()), (exported[0], ()), (exported[0], ("--text-column", "source"))):
        with pytest.raises(UserError, match="enough"):
            run("benchmark", path, "--data", data, *options)
    assert asked == [["a", "c"], ["b", "d"], ["a", "c"]]


def test_bits_are_mixed_for_classifiers_alone(folders, tmp_path):
    arguments = ("export", folders / "translate", "--format", "tflite", "--out", tmp_path / "m.tflite")
    with pytest.raises(UserError, match=r"--quantize mixed: is for classifiers, .* Use --quantize int4\."):
        run(*arguments, "--quantize", "mixed", "--max-bytes", 1009)
