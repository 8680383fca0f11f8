"""`export` of what writes texts, and `generate` and `evaluate` on the file and the folder that it writes."""

import json

import pytest
from typer.testing import CliRunner

from keras_transformer import bundle
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
def places(tmp_path_factory):
    """A translator with its SavedModel, and a language model with its file, of random weights."""
    import keras

    from keras_transformer.models import CausalLM, Seq2Seq

    keras.utils.set_random_seed(3)
    folder, tokenizer = tmp_path_factory.mktemp("exported"), ReversibleTokenizer.learn(TEXTS, 300)
    size = (tokenizer.vocab_size, 1, 8, 2, 11)
    for name, model in (("translate", Seq2Seq(*size)), ("language-model", CausalLM(*size, max_length=16))):
        bundle.save(
            folder / name,
            model=model,
            tokenizer=tokenizer,
            task=name,
            max_length=16,
            metrics={},
            command=f"keras-transformer train {name}",
            examples=TEXTS,
        )
    paths = {"translator": folder / "translate", "lm": folder / "language-model"}
    paths |= {"served": folder / "served", "lite": folder / "lm.tflite"}
    report = json.loads(
        run("export", paths["lm"], "--format", "tflite", "--quantize", "none", "--out", paths["lite"], "--json")
    )
    line = run("export", paths["translator"], "--format", "saved_model", "--out", paths["served"])
    return {**paths, "report": report, "line": line}


def test_the_report_says_how_much_stayed_the_same(places):
    assert set(places["report"]) == {
        *("path", "format", "bytes", "max_abs_logit_error", "top1_agreement", "operators", "flex_ops"),
        *("same_texts", "texts"),
    }
    assert places["report"]["path"] == str(places["lite"])
    assert (places["report"]["same_texts"], places["report"]["texts"]) == (1.0, 3)
    assert places["line"].startswith(f"{places['served'] / '1'}: bytes ")
    assert "same token 100.00%" in places["line"]
    assert "same text 100.00% of 3 texts" in places["line"]


@pytest.mark.parametrize(("keras", "exported"), [("lm", "lite"), ("translator", "served")])
def test_the_exported_form_writes_what_the_run_folder_writes(places, keras, exported):
    assert run("generate", places[exported], *TEXTS) == run("generate", places[keras], *TEXTS)
    found = json.loads(run("generate", places[exported], *TEXTS, "--json"))
    assert [one["text"] for one in found["outputs"]] == TEXTS


def test_a_file_takes_the_options_of_generate(places):
    drawn = ("--temperature", 1.5, "--max-tokens", 5, "--seed", 4)
    assert run("generate", places["lite"], *TEXTS, *drawn) == run("generate", places["lite"], *TEXTS, *drawn)
    assert run("generate", places["lite"], *TEXTS, "--beam", 3) == run("generate", places["lm"], *TEXTS, "--beam", 3)
    with pytest.raises(UserError, match=r"a SavedModel writes greedily.* Leave out --beam"):
        run("generate", places["served"], *TEXTS, "--beam", 3)


@pytest.mark.parametrize(("keras", "exported"), [("lm", "lite"), ("translator", "served")])
def test_the_exported_form_has_the_scores_of_the_run_folder(places, keras, exported, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [{"text": text, "source": text, "target": other} for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = [json.loads(run("evaluate", places[form], "--data", data, "--json")) for form in (keras, exported)]
    expected = pytest.approx(scores[0], rel=1e-5) if keras == "lm" else scores[0]
    assert scores[1] == expected


@pytest.mark.parametrize("command", ["predict", "benchmark"])
def test_a_file_that_writes_is_no_classifier(places, command):
    with pytest.raises(ModelFileError, match=r"lm\.tflite: was trained for 'language-model', and it takes 'classify'"):
        run(command, places["lite"], *(TEXTS if command == "predict" else ()))
