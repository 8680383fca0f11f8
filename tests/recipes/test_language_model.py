"""A user's own texts through train and distil of a language model, on a small language and the smallest sizes."""

import numpy as np
import pytest
from sentences import sentence_pairs, write_columns

from keras_transformer import bundle, generation
from keras_transformer.checks import UserError
from keras_transformer.evaluation import evaluate_language
from keras_transformer.recipes import language_model
from keras_transformer.recipes.language_model import DistillSettings, TrainSettings, distill, train

ROWS = 90
HELD_OUT = 10  # 9 would be a tenth, but whole groups of sentences that are alike are held back
SMALL_STEPS = {"batch_size": 1, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_columns(folder / "texts.csv", verse=[source for source, _ in sentence_pairs(ROWS)])
    return folder


def settings(files, out, **changes):
    return {
        "data": files / "texts.csv",
        "out": out,
        "quiet": True,
        "epochs": 6,
        "text_column": "verse",
        **SMALL_STEPS,
        **changes,
    }


@pytest.fixture(scope="module")
def teacher(files):
    out = files / "runs" / "teacher"
    return out, train(TrainSettings(**settings(files, out, size="tiny")))


def test_train_writes_a_run_folder_whose_model_scores_what_was_told(teacher):
    out, told = teacher
    loaded = bundle.load(out, task="language-model")
    assert (told["n"], told["epochs"], told["rows"]) == (HELD_OUT, 6, ROWS - HELD_OUT)
    assert loaded.manifest.max_length == loaded.model.max_length == 128
    assert 1 < told["perplexity"] < 0.5 * loaded.tokenizer.vocab_size  # it has learned something
    again = evaluate_language(generation.load(out), loaded.examples)
    assert again._asdict() == pytest.approx({name: told[name] for name in again._fields}, rel=1e-5)
    assert again.perplexity_byte < again.perplexity < again.perplexity_word


def test_distill_writes_a_smaller_model_that_learned_too(files, teacher, tmp_path):
    told = distill(DistillSettings(**settings(files, tmp_path / "student", teacher=teacher[0])))
    big, small = bundle.load(teacher[0]), bundle.load(tmp_path / "student")
    assert small.tokenizer.vocab == big.tokenizer.vocab
    assert (small.model.num_layers, small.model.model_dim) == (1, 64)
    assert told["parameters"] < big.manifest.parameters / 2
    assert told["teacher_perplexity"] == pytest.approx(teacher[1]["perplexity"], rel=1e-5)
    assert told["perplexity"] < 0.6 * small.tokenizer.vocab_size


def test_texts_without_spaces_are_trained_on_and_measured(tmp_path):
    """A line of 400 characters is one word, whose perplexity is beyond any number."""
    signs = "東京都日本語今天看见一座很大的房子"
    random = np.random.default_rng(5)
    lines = ["".join(random.choice(list(signs), 400)) for _ in range(5)]
    write_columns(tmp_path / "lines.csv", verse=lines)
    given = settings(tmp_path, tmp_path / "lm", data=tmp_path / "lines.csv", size="tiny", epochs=1)
    told = train(TrainSettings(**given))
    manifest = bundle.read(tmp_path / "lm").manifest
    assert told["perplexity_word"] is None
    assert "perplexity_word" not in manifest.metrics
    assert manifest.metrics["perplexity"] == told["perplexity"] > 1


def test_minutes_cut_the_work_and_the_message_says_so(files, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(language_model, "fit_on_tokens", stop)
    with pytest.raises(InterruptedError):
        train(TrainSettings(**settings(files, tmp_path / "short", size="tiny", minutes=1e-5, quiet=False)))
    said = capsys.readouterr().err
    assert f"of {ROWS - HELD_OUT} texts, in rows of 128 word pieces, 1 epochs" in said
    assert not said.startswith(f"{ROWS - HELD_OUT} of")


def test_an_older_run_folder_is_a_start_of_its_own_length(files, teacher, tmp_path):
    with pytest.raises(UserError, match=r"--max-length 129: the model has learned positions for up to 128 word pieces"):
        train(TrainSettings(**settings(files, tmp_path / "out", init=str(teacher[0]), max_length=129)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("verse\na\n \n", "line 3, column 'verse': the text is only spaces"),
        ("text\na\n", r"no column 'verse'; found \['text'\]"),
        ("verse\na\nb\nc\n", "has 3 texts: some train and some measure"),
    ],
)
def test_a_mistake_in_the_file_is_told(tmp_path, content, message):
    (tmp_path / "texts.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        train(TrainSettings(**settings(tmp_path, tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["texts.csv"]
