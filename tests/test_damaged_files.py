"""A damaged `.tflite` file is refused by name or answers as the whole one; no command crashes or hangs on it."""

import io
import os
import random
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_transformer import serving
from keras_transformer.checks import UserError
from keras_transformer.export import attachments, lite_trial
from keras_transformer.export.attachments import Part
from keras_transformer.files import ModelFileError

TEXTS = ["a fine and funny film", "dull", "not funny at all"]
CODE = "import sys; from keras_transformer.cli import main; main(sys.argv[1:])"


def run(*arguments) -> subprocess.CompletedProcess:
    """A command as a user starts it; a minute is the longest that one may take."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def flipped(content: bytes, place: int, bits: int) -> bytes:
    return content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :]


def flatbuffer_bytes(path: Path) -> int:
    return attachments.read_from_file(path).settings.parts[attachments.FLATBUFFER].bytes


def answers(path: Path):
    return serving.load(path, threads=1).predict(TEXTS)


def refusal(path: Path, content: bytes, whole) -> str | None:
    """Our error about a file of this content; None if its answers are the whole file's, and nothing else will do."""
    path.write_bytes(content)
    try:
        labels, scores = answers(path)
    except UserError as error:
        return str(error)
    assert labels == whole.labels
    np.testing.assert_array_equal(scores, whole.scores)
    return None


def test_a_file_cut_at_any_percent_is_refused(small_tflite, tmp_path):
    content, whole, path = small_tflite.read_bytes(), answers(small_tflite), tmp_path / "cut.tflite"
    found = [refusal(path, content[: len(content) * percent // 100], whole) for percent in range(101)]
    assert all(message.startswith(f"{path}: ") for message in found[:100])
    assert found[100] is None


def test_a_flipped_bit_is_noticed_or_matters_to_nothing(small_tflite, tmp_path):
    content, whole, draw = small_tflite.read_bytes(), answers(small_tflite), random.Random(17)
    model, path = flatbuffer_bytes(small_tflite), tmp_path / "flipped.tflite"
    places = [draw.randrange(model) for _ in range(100)] + [draw.randrange(model, len(content)) for _ in range(100)]
    found = [refusal(path, flipped(content, place, 1 << draw.randrange(8)), whole) for place in places]
    assert None not in found[:100]  # each byte of the flatbuffer is in its digest
    noticed = [message for message in found if message is not None]
    assert len(noticed) > 150  # an archive also has dates and versions, which nobody reads
    assert all(message.startswith(str(path)) for message in noticed)


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("holiday.txt", "sun")
    return content.getvalue()


@pytest.mark.parametrize("content", [b"", b"text,label\nfine,positive\n", archive()], ids=["empty", "text", "zip"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "other.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"other\.tflite: (can't be read as a \.tflite file of ours|has no tok)"):
        answers(path)


@pytest.mark.parametrize("command", ["evaluate", "predict", "benchmark"])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_command_says_so_in_one_line_and_ends_with_2(small_tflite, tmp_path, command, damage):
    content, data, path = small_tflite.read_bytes(), tmp_path / "data.csv", tmp_path / "bad.tflite"
    data.write_text("text,label\nfine,positive\n")
    path.write_bytes(
        {"empty": b"", "cut": content[: len(content) * 3 // 7], "flipped": flipped(content, 999, 8)}[damage]
    )
    done = run(command, path, *{"evaluate": ["--data", data], "predict": ["a film"], "benchmark": []}[command])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"keras-transformer: {path}: ")
    assert done.stderr.count("\n") == 1


def resealed(whole: Path, path: Path, flatbuffer: bytes) -> Path:
    """A file with another flatbuffer and the digest that belongs to it, as no damage but only a program makes it."""
    found = attachments.read_from_file(whole)
    parts = {attachments.FLATBUFFER: Part(sha256(flatbuffer).hexdigest(), len(flatbuffer))}
    path.write_bytes(flatbuffer)
    attachments.append_to_file(path, replace(found, settings=replace(found.settings, parts=parts)))
    return path


def endless(flatbuffer: bytes) -> bytes:
    """A valid flatbuffer whose graph is one IF, and both its branches are that graph: LiteRT's stack overflows."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer, 0))
    (graph,) = model.subgraphs
    code, options, branch = schema.OperatorCodeT(), schema.IfOptionsT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.IF
    buffer, always = schema.BufferT(), schema.TensorT()
    buffer.data = np.array([1], np.uint8)
    always.shape, always.type, always.buffer, always.name = (
        np.array([1], np.int32),
        schema.TensorType.BOOL,
        len(model.buffers),
        b"always",
    )
    branch.opcodeIndex, branch.builtinOptions = len(model.operatorCodes), options
    branch.builtinOptionsType = schema.BuiltinOptions.IfOptions
    branch.inputs = np.array([len(graph.tensors), *graph.inputs], np.int32)
    branch.outputs = np.array(graph.outputs, np.int32)
    model.operatorCodes.append(code)
    model.buffers.append(buffer)
    graph.tensors.append(always)
    graph.operators = [branch]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("command", ["evaluate", "predict", "benchmark"])
def test_a_file_that_crashes_litert_is_reported_with_the_signal(small_tflite, tmp_path, command):
    flatbuffer = small_tflite.read_bytes()[: flatbuffer_bytes(small_tflite)]
    path = resealed(small_tflite, tmp_path / "endless.tflite", endless(flatbuffer))
    data = tmp_path / "data.csv"
    data.write_text("text,label\nfine,positive\n")
    done = run(command, path, *{"evaluate": ["--data", data], "predict": ["a film"], "benchmark": []}[command])
    line = f"keras-transformer: {path}: the process that ran it was ended by SIGSEGV. Write the file again"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_a_damaged_flatbuffer_with_a_digest_to_match_is_litert_s_to_refuse(small_tflite, tmp_path):
    """No crash among these, so they can be loaded here; a changed weight is nobody's to notice."""
    content, model = small_tflite.read_bytes(), flatbuffer_bytes(small_tflite)
    for cut in (8, model // 3, model - 99):
        path = resealed(small_tflite, tmp_path / "cut.tflite", content[:cut])
        with pytest.raises(ModelFileError, match=r"cut\.tflite: LiteRT can't use it .*Write it again with"):
            answers(path)


def test_a_whole_file_is_tried_without_a_word(small_tflite, lite_child):
    with lite_trial.tried(small_tflite):
        pass
    assert lite_child(small_tflite) == (0, "")


@pytest.fixture
def lite_child():
    """What the child says of a file, and its exit code."""

    def child(path):
        command = [sys.executable, "-c", lite_trial.CODE, str(path), *sys.path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    return child


def test_the_child_needs_neither_tensorflow_nor_keras_and_does_answer(small_tflite):
    code = (
        "import sys; from keras_transformer.export import lite_trial, lite_runner\n"
        "asked, call = [], lite_runner.LiteRunner.__call__\n"
        "lite_runner.LiteRunner.__call__ = lambda self, ids: asked.append(call(self, ids).shape)\n"
        "lite_trial.answer_once(sys.argv[1]); print(asked, sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, small_tflite], capture_output=True, text=True, check=True)
    assert done.stdout == "[(1, 3)] []\n"


def test_a_file_that_gives_no_answer_in_time_is_reported(small_tflite, monkeypatch):
    monkeypatch.setattr(lite_trial, "SECONDS", 0.001)
    with (
        pytest.raises(
            ModelFileError, match=r"small\.tflite: LiteRT gave no answer to 4 tokens in 0\.001 seconds\. Wri"
        ),
        lite_trial.tried(small_tflite),
    ):
        pass


def fail_when_there_is(told: Path):
    while not told.exists():
        time.sleep(0.01)
    raise KeyError("body")


def test_an_error_of_the_body_comes_first_and_ends_the_child(small_tflite, tmp_path, monkeypatch):
    told = tmp_path / "number.txt"
    code = f"import os, time; open({str(told) + '~'!r}, 'w').write(str(os.getpid())); "
    code += f"os.rename({str(told) + '~'!r}, {str(told)!r}); time.sleep(60)"
    monkeypatch.setattr(lite_trial, "CODE", code)
    with pytest.raises(KeyError), lite_trial.tried(small_tflite):
        fail_when_there_is(told)
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


def test_a_folder_is_tried_by_nobody(tmp_path, monkeypatch):
    asked = tmp_path.parent / "asked"
    monkeypatch.setattr(lite_trial, "CODE", f"open({str(asked)!r}, 'w').close()")
    with lite_trial.tried(tmp_path):
        pass
    assert not asked.exists()


def test_a_trial_that_fails_by_itself_is_a_fault_of_ours(small_tflite, monkeypatch):
    monkeypatch.setattr(lite_trial, "CODE", "raise SystemError('out of luck')")
    with (
        pytest.raises(RuntimeError, match=r"tried .*small\.tflite failed: .*out of luck"),
        lite_trial.tried(small_tflite),
    ):
        pass
