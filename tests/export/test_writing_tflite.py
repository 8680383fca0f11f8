"""A `.tflite` file writes what its Keras model writes, token by token, of built-in operators and without TensorFlow."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from writing_models import MOST, ROOM, TEXTS, made

from keras_transformer import generation, serving
from keras_transformer.checks import UserError
from keras_transformer.export import ParityError, attachments, lite_converter, lite_steps, tflite_writer
from keras_transformer.export.lite_operators import signature_operators
from keras_transformer.export.lite_steps import LiteSteps
from keras_transformer.export.writing import prepare_writing, whole_logits
from keras_transformer.files import ModelFileError, size_on_disk
from keras_transformer.generation import Decoding

HERE = Path(__file__).parent
TASKS = ["translate", "language-model"]
OPERATORS = {
    *("ADD", "BATCH_MATMUL", "BROADCAST_TO", "CAST", "CONCATENATION", "COS", "CUMSUM", "DEQUANTIZE", "EQUAL"),
    *(
        "EXPAND_DIMS",
        "FILL",
        "FULLY_CONNECTED",
        "GATHER",
        "GELU",
        "GREATER_EQUAL",
        "LESS",
        "MAXIMUM",
        "MEAN",
        "MINIMUM",
    ),
    *(
        "MUL",
        "NEG",
        "NOT_EQUAL",
        "PACK",
        "QUANTIZE",
        "RANGE",
        "REDUCE_MAX",
        "RESHAPE",
        "RSQRT",
        "SCATTER_ND",
        "SELECT",
        "SELECT_V2",
    ),
    *("SHAPE", "SIN", "SLICE", "SOFTMAX", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TRANSPOSE"),
}


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def keras_writer(task, in_keras):
    return in_keras(task)


def written_by_the_interpreter(path, read, end_id, most):
    """Greedy ids by the interpreter itself: what `step` adds goes into its place, all else under its name."""
    interpreter = Interpreter(model_path=str(path))
    prompt, step = interpreter.get_signature_runner("prompt"), interpreter.get_signature_runner("step")
    state = prompt(token_ids=np.array([read], np.int32))
    found = [int(np.argmax(state.pop("logits")))]
    while len(found) < most and found[-1] != end_id:
        place, given = int(state["position"][0]), step(token_ids=np.array(found[-1:], np.int32), **state)
        found.append(int(np.argmax(given.pop("logits"))))
        state["position"] = given.pop("position")
        for name, added in given.items():
            state[name.removeprefix("new_")][:, :, place] = added[:, :, 0]
    return found


def test_the_file_writes_the_greedy_tokens_of_keras(task, lite_writer, greedy_loop, text_tokenizer):
    report, (loop, every) = lite_writer(task), greedy_loop(task)
    for text, expected in zip(TEXTS, every, strict=True):
        found = written_by_the_interpreter(report.path, loop.read(text), text_tokenizer.end_id, MOST[task])
        assert found == expected
    assert len(set(map(tuple, every))) >= len(TEXTS) - 1  # what is written depends on the text
    assert report.top1_agreement == report.same_texts == 1.0
    assert report.max_abs_logit_error < 1e-4


def test_some_texts_end_before_they_must(greedy_loop, text_tokenizer):
    ended = [ids[-1] == text_tokenizer.end_id for ids in greedy_loop("translate")[1]]
    assert 0 < sum(ended) < len(TEXTS)


def test_texts_come_out_as_keras_writes_them(task, lite_writer, keras_writer):
    writer = generation.load(lite_writer(task).path)
    assert (writer.task, writer.max_length) == (task, ROOM)
    assert writer.write(TEXTS) == keras_writer.write(TEXTS) == serving.load(lite_writer(task).path).predict(TEXTS)
    searched = Decoding(beam=3, max_tokens=7)
    assert writer.write(TEXTS[:5], searched) == keras_writer.write(TEXTS[:5], searched)
    greedy, likeliest = Decoding(max_tokens=7), Decoding(top_k=1, max_tokens=7)
    assert writer.write(TEXTS, likeliest) == writer.write(TEXTS, greedy) != writer.write(TEXTS)


def test_an_exported_file_is_not_compiled(lite_writer):
    with pytest.raises(ValueError, match=r"jit_compile=True with .*: an exported file is run as it is\. Load the run"):
        generation.load(lite_writer("translate").path, jit_compile=True)


def test_what_is_drawn_depends_on_the_seed_and_the_place_alone(task, lite_writer):
    writer, drawn = generation.load(lite_writer(task).path), Decoding(temperature=1.5, top_p=0.95, seed=5)
    together = writer.write(TEXTS, drawn)
    assert together == [writer.write([text], drawn, first=place)[0] for place, text in enumerate(TEXTS)]
    assert together != writer.write(TEXTS, Decoding(temperature=1.5, top_p=0.95, seed=6))


def test_a_state_may_go_on_in_two_ways(task, lite_writer):
    steps = LiteSteps(lite_writer(task).path)
    begun = steps.begin([5, 9, 2])
    one, other = steps.step(260, begun.state), steps.step(261, begun.state)
    again = steps.step(260, begun.state)
    np.testing.assert_array_equal(one.logits, again.logits)
    assert np.abs(one.logits - other.logits).max() > 0.01
    assert begun.state.position == one.state.position - 1


def test_two_texts_in_turns_are_as_each_by_itself(task, lite_writer):
    """Only one of them has its keys and values in the interpreter's memory."""
    steps, prompts, added = (
        LiteSteps(lite_writer(task).path),
        ([5, 9, 2], [7, 261, 8, 30]),
        ([260, 12, 40], [9, 9, 270]),
    )
    alone = [steps.choices(prompt, [*written, 5]) for prompt, written in zip(prompts, added, strict=True)]
    begun = [steps.begin(prompt) for prompt in prompts]
    for place in range(3):
        begun = [steps.step(one[place], each.state) for one, each in zip(added, begun, strict=True)]
        for each, logits in zip(begun, alone, strict=True):
            np.testing.assert_array_equal(each.logits, logits[place + 1])


def test_a_text_that_goes_on_stays_in_the_memory_of_the_interpreter(task, lite_writer):
    steps = LiteSteps(lite_writer(task).path)
    begun, given = steps.begin([5, 9, 2]), []
    set_tensor = steps._interpreter.set_tensor
    steps._interpreter.set_tensor = lambda index, value: (given.append(value.size), set_tensor(index, value))
    for token_id in (260, 12, 40):
        given.clear()
        begun = steps.step(token_id, begun.state)
    assert given == [1, 1]  # the token and its position
    for name, array in begun.state.caches.arrays.items():
        known = begun.state.position
        held = steps._interpreter.get_tensor(steps._inputs[name])
        np.testing.assert_array_equal(held[:, :, :known], array[:, :, :known])
        assert np.abs(array[:, :, known - 1]).max() > 0


def test_a_text_without_room_for_one_more_token_is_refused(lite_writer):
    steps = LiteSteps(lite_writer("language-model").path)
    begun = steps.begin([5] * (ROOM - 1))
    full = steps.step(9, begun.state).state
    with pytest.raises(ValueError, match=r"a text of 23 tokens has no room for one more: .* larger max_length"):
        steps.step(9, full)


def test_a_file_of_an_older_version_is_refused(lite_writer, monkeypatch):
    monkeypatch.setattr(lite_steps, "NEW", "added_")
    with pytest.raises(ModelFileError, match=r"signature 'step' is that of an older version\)\. Write it again with"):
        LiteSteps(lite_writer("translate").path)


def test_a_language_model_foresees_texts_as_keras_does(lite_writer, in_keras):
    writer, counted = generation.load(lite_writer("language-model").path), []
    found = writer.log_likelihood(TEXTS, counted.append)
    expected = in_keras("language-model").log_likelihood(TEXTS)
    assert found == (pytest.approx(expected.negative, rel=1e-5), expected.tokens)
    assert counted == [1] * len(TEXTS)
    with pytest.raises(UserError, match="a model for 'translate' foresees no text by itself"):
        generation.load(lite_writer("translate").path).log_likelihood(TEXTS)


INTEGERS = {"dynamic": (0.9, 0.3), "int8": (0.8, 1.0), "int16": (0.9, 0.3), "int4": (0.25, 1.0)}
"""The fewest tokens that stay, and the largest difference of a logit as a share of the largest.

These weights are random, and have nothing to spare: of 4 bits a step is a seventh of the largest weight.
"""


@pytest.fixture(scope="module", params=TASKS)
def whole(request, writing_model, writing_parts):
    """A task, the prompts with what is written after each, and the logits of the Keras model at each token of that."""
    prepared = prepare_writing(writing_model(request.param), **writing_parts(request.param))
    reference = whole_logits(prepared.writing)
    return request.param, prepared.pairs, np.concatenate([reference(*pair) for pair in prepared.pairs])


@pytest.mark.parametrize("quantize", INTEGERS)
def test_integer_forms_agree_as_far_as_the_report_says(whole, lite_writer, quantize):
    task, pairs, theirs = whole
    report, (fewest, largest) = lite_writer(task, quantize), INTEGERS[quantize]
    steps = LiteSteps(report.path)
    ours = np.concatenate([steps.choices(*pair) for pair in pairs])
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    assert report.top1_agreement == pytest.approx(same.mean())
    assert report.top1_agreement > fewest
    assert 1e-3 < report.max_abs_logit_error < largest * np.abs(theirs).max()
    assert report.max_abs_logit_error == pytest.approx(np.abs(ours - theirs).max(), rel=1e-3)
    assert report.bytes < (0.85 if quantize == "dynamic" else 0.9) * lite_writer(task).bytes  # much is no weight here
    assert len(set(generation.load(report.path).write(TEXTS))) > 5  # what is read still counts


@pytest.mark.parametrize("quantize", ["none", *INTEGERS])
def test_there_are_only_built_in_operators(task, lite_writer, quantize):
    report = lite_writer(task, quantize)
    assert report.operators == sorted(set(report.operators))
    assert {"FULLY_CONNECTED", "GATHER", "SOFTMAX"} <= set(report.operators) <= OPERATORS
    assert report.flex_ops == []
    step = {one.signature: one.in_file for one in signature_operators(report.path)}["step"]
    assert "SCATTER_ND" not in step  # nothing in it writes into a cache


def test_the_signatures_are_those_of_the_golden_file(task, lite_writer):
    interpreter, found = Interpreter(model_path=lite_writer(task).path), {}
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        found[name] = {
            side: {
                key: {"dtype": np.dtype(tensor["dtype"]).name, "shape": tensor["shape_signature"].tolist()}
                for key, tensor in details.items()
            }
            for side, details in (("inputs", runner.get_input_details()), ("outputs", runner.get_output_details()))
        }
    assert found == json.loads((HERE / "golden_writing_signatures.json").read_text())["tflite " + task]


def test_tokenizer_and_settings_are_inside(task, lite_writer, writing_model, text_tokenizer):
    report = lite_writer(task)
    found = attachments.read_from_file(Path(report.path))
    assert found.labels == []
    assert found.tokenizer_json == text_tokenizer.to_json()
    assert (found.settings.task, found.settings.format) == (task, "tflite_float32")
    assert (found.settings.max_length, found.settings.vocab_size) == (ROOM, text_tokenizer.vocab_size)
    assert found.settings.parameters == writing_model(task).count_params()
    assert (report.bytes, report.texts) == (size_on_disk(report.path), len(TEXTS))


def test_a_file_is_asked_without_tensorflow_and_keras(lite_writer, keras_writer, task):
    code = """
        import json, sys
        from keras_transformer import generation, serving
        outputs = generation.load(sys.argv[1]).write(json.loads(sys.argv[2]))
        heavy = sorted({name.split(".")[0] for name in sys.modules} & {"tensorflow", "keras", "h5py"})
        print(json.dumps([outputs, heavy]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), lite_writer(task).path, json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [keras_writer.write(TEXTS), []]


def test_more_tokens_than_there_is_room_for_are_refused(task, lite_writer):
    writer = generation.load(lite_writer(task).path)
    message = {
        "translate": "--max-tokens 24: the file has room for 23 word pieces of a translation. Use 23 or less",
        "language-model": "--max-tokens 24: the model has room for 23 word pieces.* Use 22 or less",
    }
    with pytest.raises(UserError, match=message[task]):
        writer.write(["a"], Decoding(max_tokens=24))


@pytest.mark.parametrize(
    ("quantize", "limits", "message"),
    [
        ("none", {"tolerance": -1.0}, r"in a logit \(limit -.*Pass a larger tolerance if you can live with that"),
        ("float16", {"tolerance": -1.0}, "Try quantize='none', or pass a larger tolerance"),
        ("dynamic", {"min_agreement": 1.01}, r"\(limit 101.0%\): .* Try quantize='float16', or pass a lower min_agr"),
    ],
)
def test_a_file_over_the_limit_is_not_written_and_an_older_one_stays(
    lite_writer, writing_model, writing_parts, tmp_path, monkeypatch, quantize, limits, message
):
    ready = Path(lite_writer("language-model").path)
    length = attachments.read_from_file(ready).settings.parts["model.tflite"].bytes
    monkeypatch.setattr(lite_converter, "flatbuffer", lambda *_: ready.read_bytes()[:length])
    older = tmp_path / "m.tflite"
    older.write_bytes(b"the older file")
    parts = {**writing_parts("language-model"), "examples": TEXTS[:2], "quantize": quantize, **limits}
    with pytest.raises(ParityError, match=message):
        tflite_writer(writing_model("language-model"), older, **parts)
    assert older.read_bytes() == b"the older file"
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantize": "int5"}, r"quantize='int5' must be one of .* Did you mean quantize='int8'\?"),
        ({"task": "classify"}, r"task='classify' must be one of \['translate', 'language-model'\]"),
        ({"examples": []}, r"examples=\[\] can't prove an export"),
        ({"max_length": ROOM + 1}, r"max_length=24 is more than the 23 positions that model 'causal_lm'"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(text_tokenizer, writing_parts, tmp_path, change, message):
    model = made("language-model", text_tokenizer.vocab_size, name="causal_lm")
    with pytest.raises(ValueError, match=message):
        tflite_writer(model, tmp_path / "m.tflite", **{**writing_parts("language-model"), **change})
    assert list(tmp_path.iterdir()) == []


def test_pieces_without_their_spaces_are_refused(writing_model, writing_parts, small_tokenizer, tmp_path):
    parts = {**writing_parts("translate"), "tokenizer": small_tokenizer}
    with pytest.raises(UserError, match=r"is a WordPiece, and a model that writes .* Train with a ReversibleTokenizer"):
        tflite_writer(writing_model("translate"), tmp_path / "m.tflite", **parts)


def test_a_model_in_mixed_precision_is_written_in_float32(task, text_tokenizer, greedy_loop, writing_parts):
    mixed = made(task, text_tokenizer.vocab_size, dtype="mixed_bfloat16")
    found = prepare_writing(mixed, **writing_parts(task))
    assert found.writing.model.compute_dtype == "float32"
    assert found.written == greedy_loop(task)[1]


def test_a_file_of_another_task_is_named(lite_writer, small_tflite, tmp_path):
    with pytest.raises(ModelFileError, match=r"for 'translate', .* 'classify' to find labels\. Ask it with .*generate"):
        serving.load_classifier(lite_writer("translate").path)
    with pytest.raises(
        ModelFileError, match="was trained for 'classify', and it takes 'translate' or 'language-model'"
    ):
        generation.load(small_tflite)
