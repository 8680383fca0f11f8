"""A SavedModel takes raw strings and gives raw strings, as its Keras model does, where neither Keras nor we are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from typer.testing import CliRunner
from writing_models import MOST, ROOM, TEXTS

from keras_transformer import generation
from keras_transformer.checks import UserError
from keras_transformer.cli import app
from keras_transformer.export import ParityError, saved_model_writer, served_writing, serving_session
from keras_transformer.export.serving_notes import Notes
from keras_transformer.export.writing import prepare_writing, searched_scores
from keras_transformer.export.writing_saved_model import BEAM_WIDTH
from keras_transformer.files import ModelFileError, size_on_disk
from keras_transformer.generation import Decoding
from keras_transformer.scores import translation_scores

HERE = Path(__file__).parent
TASKS = ["translate", "language-model"]
NASTY = ["", " \t ", "dull\x00dull", "\u0645\u0645\u062a\u0639", "▁ [END] ﷺ", "warm " * 100]


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def keras_writer(task, in_keras):
    return in_keras(task)


LIMITS = [5, 1, ROOM - 1, 3, 11, 2, 7, 13, 4]  # one for each text
WHOLE = {
    "translate": {"source_ids": [[5, 9]], "target_ids": [[1, 7]]},
    "language-model": {"token_ids": [[5, 9]]},
}


@pytest.fixture(scope="module")
def stock(served_writer, greedy_loop, text_tokenizer, tmp_path_factory):
    """By task, what the stock loader says of the SavedModel, in a process without Keras and without us."""
    folder, command = tmp_path_factory.mktemp("stock"), [sys.executable, HERE / "stock_loader.py"]
    for task in TASKS:
        read = [greedy_loop(task)[0].read(text) for text in TEXTS]
        requests = {
            "texts": {"signature": "serving_default", "inputs": {"text": TEXTS}},
            "nasty": {"signature": "serving_default", "inputs": {"text": NASTY}},
            "no_text": {"signature": "serving_default", "inputs": {"text": []}},
            "ids": {"signature": "generate_tokens", "inputs": {"token_ids": text_tokenizer.pad(read).tolist()}},
            "beyond": {"signature": "generate_tokens", "inputs": {"token_ids": [[text_tokenizer.vocab_size]]}},
            "too_long": {"signature": "generate_tokens", "inputs": {"token_ids": [[5] * (ROOM + 1)]}},
            "limited": {"signature": "generate", "inputs": {"text": TEXTS, "max_tokens": LIMITS}},
            "searched": {"signature": "search", "inputs": {"text": TEXTS, "max_tokens": LIMITS}},
            "none_limited": {"signature": "generate", "inputs": {"text": [], "max_tokens": []}},
            "too_few_limits": {"signature": "generate", "inputs": {"text": TEXTS, "max_tokens": [1]}},
            "no_token": {"signature": "search", "inputs": {"text": ["a"], "max_tokens": [0]}},
            "too_many": {"signature": "generate", "inputs": {"text": ["a"], "max_tokens": [ROOM + 1]}},
            "whole": {"signature": "tokens", "inputs": WHOLE[task]},
        }
        path = folder / f"{task}.json"
        path.write_text(json.dumps(list(requests.values())))
        command += [served_writer(task).path, path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    found = dict(zip(TASKS, map(json.loads, done.stdout.splitlines()), strict=True))
    return {task: {**one, "answers": dict(zip(requests, one["answers"], strict=True))} for task, one in found.items()}


def test_strings_come_out_as_keras_writes_them_where_neither_keras_nor_we_can_be_imported(task, stock, keras_writer):
    found = stock[task]
    assert found["blocked"] == ["keras", "keras_transformer", "tf_keras", "tensorflow_text"]
    assert found["answers"]["texts"]["output"] == keras_writer.write(TEXTS)
    assert found["answers"]["nasty"]["output"] == keras_writer.write(NASTY)
    assert found["answers"]["no_text"] == {"output": [], "log_prob": []}
    assert found["compiled"] == []


def test_ids_are_the_greedy_ones_with_their_probability(task, stock, greedy_loop):
    answer, (loop, every) = stock[task]["answers"]["ids"], greedy_loop(task)
    assert answer["token_ids"] == [ids + [0] * (MOST[task] - len(ids)) for ids in every]
    for text, ids, log_prob in list(zip(TEXTS, every, answer["log_prob"], strict=True))[:3]:
        total = 0.0
        for place, token in enumerate(ids):
            logits = loop.logits(loop.read(text), ids[:place]).astype(float)
            total += logits[token] - np.log(np.exp(logits).sum())
        assert log_prob == pytest.approx(total, rel=1e-4)
    assert stock[task]["answers"]["texts"]["log_prob"] == pytest.approx(answer["log_prob"], rel=1e-4)


def test_each_text_gets_as_many_tokens_as_its_caller_asked_for(task, stock, keras_writer):
    answers = stock[task]["answers"]
    for place in (0, 2):
        limit = Decoding(max_tokens=LIMITS[place])
        assert [answers["limited"]["output"][place]] == keras_writer.write([TEXTS[place]], limit)
    for place in (3, 4):
        limit = Decoding(beam=4, max_tokens=LIMITS[place])
        assert answers["searched"]["output"][place][:1] == keras_writer.write([TEXTS[place]], limit)
    assert answers["none_limited"] == {"output": [], "log_prob": [], "score": []}


def test_a_search_gives_its_texts_best_first_with_the_scores_they_are_ranked_by(task, stock):
    answer, greedy = stock[task]["answers"]["searched"], stock[task]["answers"]["limited"]
    scores, log_probs = np.array(answer["score"], float), np.array(answer["log_prob"], float)
    assert scores.shape == log_probs.shape == (len(TEXTS), 4)
    assert np.all(np.diff(scores, axis=1) <= 0)
    one = LIMITS.index(1)
    np.testing.assert_allclose(scores[one], log_probs[one], rtol=1e-5)  # of one token the penalty is 1
    assert scores[one, 0] == pytest.approx(greedy["log_prob"][one], rel=1e-4)
    assert greedy["score"][one] == pytest.approx(greedy["log_prob"][one], rel=1e-5)
    assert 0 > greedy["score"][2] > greedy["log_prob"][2]


def test_limits_that_the_model_does_not_take_are_answered_with_the_reason(task, stock):
    answers, most = stock[task]["answers"], {"translate": ROOM, "language-model": ROOM - 1}[task]
    wrong_number = "max_tokens must have one number for each text; numbers:] [1] [texts:] [9]"
    assert wrong_number in answers["too_few_limits"]["message"]
    assert f"max_tokens must lie in 1..{most}, here they run from] [0] [to] [0]" in answers["no_token"]["message"]
    assert f"max_tokens must lie in 1..{most}, here they run from] [24] [to] [24]" in answers["too_many"]["message"]


def test_the_whole_model_is_there_too(task, stock, writing_model):
    inputs = {name: np.array(ids, "int32") for name, ids in WHOLE[task].items()}
    expected = writing_model(task)(inputs, training=False)
    np.testing.assert_allclose(stock[task]["answers"]["whole"]["logits"], expected, atol=1e-5)


def test_ids_that_the_model_does_not_take_are_answered_with_the_reason(task, stock, text_tokenizer):
    answers, last = stock[task]["answers"], text_tokenizer.vocab_size - 1
    longest = {"translate": ROOM, "language-model": ROOM - ROOM // 2}[task]
    assert f"token_ids must lie in 0..{last}, here they run from] [{last + 1}]" in answers["beyond"]["message"]
    assert f"token_ids may have at most {longest} columns, here they have] [24]" in answers["too_long"]["message"]
    assert {answers[name]["status"] for name in ("beyond", "too_long")} == {"InvalidArgumentError"}


def test_the_signatures_are_those_of_the_golden_file(task, stock):
    golden = json.loads((HERE / "golden_writing_signatures.json").read_text())
    assert stock[task]["signatures"] == golden["saved_model " + task]


def test_there_are_only_core_operators_and_each_weight_is_stored_once(task, served_writer, writing_model):
    report = served_writer(task)
    assert {"HashTableV2", "While", "TensorScatterUpdate", "UnicodeTranscode"} <= set(report.operators)
    assert [name for name in report.operators if name.startswith(("Xla", "TFText", "Fast", "PyFunc"))] == []
    weights = sum(int(np.prod(weight.shape)) * 4 for weight in writing_model(task).weights)
    stored = (Path(report.path) / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert weights <= stored < 1.05 * weights
    assert report.bytes == size_on_disk(report.path)
    assert (report.top1_agreement, report.same_texts, report.texts) == (1.0, 1.0, len(TEXTS))
    assert report.max_abs_logit_error < 1e-5


def test_it_is_asked_by_its_path_as_any_form_is(task, served_writer, keras_writer):
    writer = generation.load(Path(served_writer(task).path).parent)
    assert (writer.task, writer.max_length) == (task, ROOM)
    assert writer.write(TEXTS * 4) == keras_writer.write(TEXTS) * 4
    for decoding in (Decoding(beam=4), Decoding(max_tokens=5), Decoding(beam=4, max_tokens=3)):
        assert writer.write(TEXTS, decoding) == keras_writer.write(TEXTS, decoding)
    assert writer.write(TEXTS, Decoding(beam=1)) == keras_writer.write(TEXTS)
    most = {"translate": "has room for 23 word pieces of a translation", "language-model": "room for 23 word pieces"}
    refused = [
        (Decoding(temperature=0.7), "a SavedModel draws no texts"),
        (Decoding(beam=2), "--beam 2: this SavedModel searches with --beam 4"),
        (Decoding(max_tokens=ROOM + 1), f"--max-tokens {ROOM + 1}: the .*{most[task]}"),
    ]
    for decoding, message in refused:
        with pytest.raises(UserError, match=message):
            writer.write(["a"], decoding)
    with pytest.raises(UserError, match="a text has 1048577 bytes, and a SavedModel reads texts of up to 1048576"):
        writer.write(["a" * 1048577])
    if task == "translate":
        with pytest.raises(UserError, match="a model for 'translate' foresees no text by itself"):
            writer.log_likelihood(TEXTS)
    else:
        expected = keras_writer.log_likelihood(TEXTS)
        assert writer.log_likelihood(TEXTS) == (pytest.approx(expected.negative, rel=1e-5), expected.tokens)


def test_the_commands_take_the_folder(served_writer, keras_writer, task, tmp_path):
    folder, data = str(Path(served_writer(task).path).parent), tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text, "source": text, "target": "a"}) + "\n" for text in TEXTS))
    asked = CliRunner().invoke(app, ["generate", folder, *TEXTS, "--json"])
    outputs = [one["output"] for one in json.loads(asked.stdout)["outputs"]]
    assert outputs == keras_writer.write(TEXTS)
    scored = json.loads(CliRunner().invoke(app, ["evaluate", folder, "--data", str(data), "--json"]).stdout)
    if task == "translate":
        assert scored["bleu"] == translation_scores(outputs, ["a"] * len(TEXTS)).bleu
    else:
        found = keras_writer.log_likelihood(TEXTS)
        assert scored["perplexity"] == pytest.approx(np.exp(found.negative / found.tokens), rel=1e-4)
    assert scored["n"] == len(TEXTS)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda small: small, "the tokenizer is WordPiece, which doesn't keep where spaces were"),
        (
            lambda _: Tokenizer(models.BPE()),
            r"of kind BPE, .* \(byte-level BPE and unigram can't yet\)\. Train with one",
        ),
        (lambda _: Tokenizer(models.Unigram()), "the tokenizer is of kind Unigram, and only WordPiece and Reversible"),
    ],
)
def test_a_vocabulary_that_cannot_run_in_the_graph_is_refused(
    writing_model, writing_parts, small_tokenizer, tmp_path, kind, message
):
    parts = {**writing_parts("translate"), "tokenizer": kind(small_tokenizer)}
    with pytest.raises(UserError, match=message):
        saved_model_writer(writing_model("translate"), tmp_path / "m", **parts)
    assert list(tmp_path.iterdir()) == []


class Tampered:
    """A session that answers as the Keras model does, but for what `change` makes of it."""

    operators = ()

    def __init__(self, prepared, change):
        self.prepared, self.change = prepared, change

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, name, **inputs):
        writing, prepared = self.prepared.writing, self.prepared
        outputs = {
            "tokens": lambda: {"logits": np.array(writing.model(inputs, training=False))},
            "generate_tokens": lambda: {"token_ids": writing.tokenizer.pad(prepared.written, ROOM)},
            "serving_default": lambda: {
                "output": np.array(
                    [writing.output(*one).encode() for one in zip(prepared.texts, prepared.written, strict=True)],
                    object,
                )
            },
            "generate": lambda: {"output": np.array([one.encode() for one in self.limited(**inputs)], object)},
            "search": lambda: {"score": np.expand_dims(searched_scores(writing, prepared.prompts, BEAM_WIDTH), 1)},
        }[name]()
        return self.change(outputs)

    def limited(self, text, max_tokens):
        """Each text's first tokens, as many as were asked for."""
        for one, most in zip(text, max_tokens, strict=True):
            place = self.prepared.texts.index(one.decode())
            yield self.prepared.writing.output(one.decode(), self.prepared.written[place][:most])


def other_token(outputs):
    if "token_ids" in outputs:
        outputs["token_ids"][1, 0] += 1
    return outputs


def other_text(outputs):
    if len(outputs.get("output", ())) == 3:
        outputs["output"][1] = b"another text"
    return outputs


def other_length(outputs):
    """`generate` is asked for the one text of the three that is short enough."""
    return {"output": [b"of another length"]} if len(outputs.get("output", ())) == 1 else outputs


def worse_search(outputs):
    if "score" in outputs:
        outputs["score"][2] -= 1
    return outputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_token, r"m/1: would write other tokens than its Keras model for text 1, \[\d+.* Nothing was written"),
        (
            other_text,
            "would answer text 1 with 'another text' and not '.*': the tokenizer in the graph reads or writes",
        ),
        (lambda outputs: {key: value + 0.5 if key == "logits" else value for key, value in outputs.items()}, "5.0e-01"),
        (other_length, "would answer text 2 with 'of another length' and not '.*' when asked for 1 tokens"),
        (worse_search, r"a search would find a text of score -\d+\.\d+ for text 2, and its Keras model one of"),
        (lambda outputs: outputs, None),
    ],
)
def test_a_graph_that_writes_otherwise_is_found(writing_model, writing_parts, tmp_path, monkeypatch, change, message):
    parts = {**writing_parts("translate"), "examples": TEXTS[:3]}
    session = Tampered(prepare_writing(writing_model("translate"), **parts), change)
    monkeypatch.setattr(serving_session, "ServingSession", lambda _: session)
    monkeypatch.setattr(served_writing, "write_for_servers", lambda _, folder, width: folder.mkdir(parents=True))
    monkeypatch.setattr(Notes, "of", lambda *_: Notes(tmp_path / "m", {}, [], "translate", 1))
    monkeypatch.setattr(Notes, "write_warm_up", lambda *_: None)
    monkeypatch.setattr(Notes, "write", lambda _: None)
    if message is None:  # the stand-in itself is let through
        saved_model_writer(writing_model("translate"), tmp_path / "m", **parts)
        return
    with pytest.raises(ParityError, match=message):
        saved_model_writer(writing_model("translate"), tmp_path / "m", **parts)
    assert not (tmp_path / "m" / "1").exists()


def test_a_folder_of_another_task_is_named(served_writer, small_saved_model):
    from keras_transformer import serving

    with pytest.raises(ModelFileError, match="was trained for 'language-model', and it takes 'classify' to find"):
        serving.load(Path(served_writer("language-model").path).parent)
    with pytest.raises(ModelFileError, match="was trained for 'classify', and it takes 'translate' or"):
        generation.load(small_saved_model)
