"""How many tokens an exported model has room to write in: fewer than the model itself, down to two, and never one."""

import pytest
from ai_edge_litert.interpreter import Interpreter
from writing_models import ROOM, TEXTS

from keras_transformer import generation
from keras_transformer.checks import UserError
from keras_transformer.data.continuations import new_tokens
from keras_transformer.export import lite_trial, saved_model_writer, tflite_writer
from keras_transformer.generation import Decoding
from keras_transformer.generation.keras_writers import Continuer, Translator

SMALL, SHORT = 13, ["a", "in", "the dog", "naïve"]
FEW = Decoding(max_tokens=7)


@pytest.fixture(params=["translate", "language-model"])
def task(request):
    return request.param


@pytest.fixture
def exported(task, writing_model, writing_parts, tmp_path):
    """A function: room and number format -> what writes with such a file, and its path."""

    def export(room, quantize="none"):
        parts = {**writing_parts(task), "max_length": room, "quantize": quantize}
        limits = {} if quantize == "none" else {"min_agreement": 0.5}
        report = tflite_writer(writing_model(task), tmp_path / "m.tflite", **parts, **limits)
        return generation.load(report.path), report.path

    return export


def rooms(path):
    """The third length of each cache that a step takes."""
    given = Interpreter(model_path=str(path)).get_signature_runner("step").get_input_details()
    return {one["shape"][2] for name, one in given.items() if name.startswith(("key", "value", "memory_key"))}


def test_a_file_with_less_room_writes_the_same_while_that_fits(task, exported, lite_writer, text_tokenizer):
    longest = max(len(ids) for ids in text_tokenizer.encode(SHORT, 999))
    assert longest <= SMALL - 7
    (small, path), whole = exported(SMALL), generation.load(lite_writer(task).path)
    assert (rooms(path), rooms(lite_writer(task).path)) == ({SMALL}, {ROOM})
    assert small.write(SHORT, FEW) == whole.write(SHORT, FEW)
    assert len(set(small.write(SHORT, FEW))) == len(SHORT)
    assert max(map(len, small.new_token_ids(TEXTS))) == (SMALL if task == "translate" else SMALL // 2)


def test_a_saved_model_with_less_room_writes_the_same_while_that_fits(writing_model, writing_parts, in_keras, tmp_path):
    parts = {**writing_parts("language-model"), "max_length": SMALL, "examples": SHORT}
    report = saved_model_writer(writing_model("language-model"), tmp_path / "m", **parts)
    small = generation.load(report.path)
    assert small.write(SHORT, FEW) == in_keras("language-model").write(SHORT, FEW)
    with pytest.raises(UserError, match="--max-tokens 13: the model has room for 13 word pieces"):
        small.write(SHORT, Decoding(max_tokens=SMALL))


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_room_of_two_is_enough(task, quantize, exported, writing_model, text_tokenizer):
    writer, path = exported(2, quantize)
    most = {"translate": 2, "language-model": 1}[task]
    assert max(map(len, writer.new_token_ids(TEXTS))) == most
    if quantize == "none":
        make = Translator if task == "translate" else Continuer
        assert writer.write(TEXTS) == make(writing_model(task), text_tokenizer, 2).write(TEXTS)
    lite_trial.answer_once(path)


@pytest.mark.parametrize("write", [tflite_writer, saved_model_writer])
def test_a_room_of_one_is_refused(task, write, writing_model, writing_parts, tmp_path):
    message = r"max_length=1 leaves no room to write in: .* Use max_length=2 or more\."
    with pytest.raises(UserError, match=message):
        write(writing_model(task), tmp_path / "m.tflite", **{**writing_parts(task), "max_length": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_language_model_without_room_to_write_says_so():
    with pytest.raises(UserError, match=r"has room for 1 word piece, .* Train it with --max-length 3 or more"):
        new_tokens(1, None)
    assert new_tokens(2, None) == 1
