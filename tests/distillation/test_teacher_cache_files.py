"""A teacher cache on the disk: kills, damage, foreign files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.data.batching import Batches
from keras_transformer.distillation import CachedTeacher, cache_teacher
from keras_transformer.files import ModelFileError, sha256

DATA = Batches([[1, 5], [7, 7, 7], [12]], batch_size=2)

PROGRAM = """
import os, sys, time
import numpy as np, keras, tensorflow as tf
from keras_transformer.distillation import cache_parts, cache_teacher

folder, parts = sys.argv[1], os.path.join(sys.argv[1], "parts")

def start():
    child = os.fork()  # TensorFlow has been imported and not used, so the child may use it
    if child:
        return child
    cache_parts.PART_ROWS = 50
    keras.utils.set_random_seed(3)
    inputs = keras.Input((7,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    x = np.random.default_rng(5).normal(size=(5000, 7)).astype("float32")
    print(len(cache_teacher(model, tf.data.Dataset.from_tensor_slices(x).batch(10), folder)), flush=True)
    np.save(sys.argv[2], model(x))
    os._exit(0)

for kill in range(4):  # each at another moment of the writing
    before = len(os.listdir(parts)) if os.path.isdir(parts) else 0
    child = start()
    while not os.path.isdir(parts) or len(os.listdir(parts)) < before + 3:
        assert os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        time.sleep(0.0005)
    time.sleep(0.0007 * kill)
    os.kill(child, 9)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9, "ended before it was killed"
assert os.waitpid(start(), 0)[1] == 0
"""


def test_kills_while_writing_leave_a_cache_that_the_next_call_completes(tmp_path):
    folder, logits = tmp_path / "cache", tmp_path / "logits.npy"
    command = [sys.executable, "-c", PROGRAM, str(folder), str(logits)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout == "5000\n"
    assert not list(folder.rglob(".*"))  # what the killed ones had begun
    x = np.random.default_rng(5).normal(size=(5000, 7)).astype("float32")
    got = next(iter(CachedTeacher.load(folder).attach(tf.data.Dataset.from_tensors(x))))
    np.testing.assert_allclose(got["teacher_logits"], np.load(logits), atol=1e-6)


@pytest.fixture
def teacher(tagger):
    """Gives token logits and masks, so that each kind of file is there."""
    return tagger()


@pytest.fixture
def whole(teacher, tmp_path):
    folder = tmp_path / "cache"
    cache_teacher(teacher, DATA, folder)
    return folder


def damaged_files():
    part = "parts/part_000000"
    return [f"{part}/{name}" for name in ("index.npy", "lengths.npy", "starts_1.npy", "output_0.bin", "output_1.bin")]


@pytest.mark.parametrize("name", damaged_files())
def test_a_damaged_file_is_named_and_its_rows_recorded_again(teacher, whole, name):
    file = whole / name
    content = file.read_bytes()
    for damage, message in (
        (content[:-1], rf"{Path(name).name}: .* has {len(content) - 1} bytes where {len(content)} were written"),
        (content[:-1] + bytes([content[-1] ^ 1]), rf"{Path(name).name}: .* isn't what was written: its sha256 differs"),
        (None, rf"{Path(name).name}: .* is missing. Delete the folder .*part_000000 and call cache_teacher again"),
    ):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(ModelFileError, match=message):
            CachedTeacher.load(whole)
    shutil.rmtree(file.parent)
    assert len(cache_teacher(teacher, DATA, whole)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "isn't readable JSON"),
        ("{}", "isn't the manifest of a teacher cache"),
        ('{"format": 9}', "format 9, and this version reads 1"),
    ],
)
def test_a_manifest_that_is_none_is_told(whole, content, message):
    (whole / "teacher_cache.json").write_text(content)
    with pytest.raises(ModelFileError, match=message):
        CachedTeacher.load(whole)
    with pytest.raises(ModelFileError, match=r"teacher_cache.json: there is no such file"):
        CachedTeacher.load(whole / "parts")


def test_a_folder_with_something_else_is_left_alone(teacher, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is there already and is no teacher cache. Give a new or empty folder"):
        cache_teacher(teacher, DATA, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_pickles_are_never_opened(whole):
    """Even with a part.json that vouches for it."""
    part = whole / "parts" / "part_000000"
    np.save(part / "index.npy", np.array([{"x": 1}], object), allow_pickle=True)
    description = json.loads((part / "part.json").read_text())
    file = part / "index.npy"
    description["files"]["index.npy"] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (part / "part.json").write_text(json.dumps(description))
    with pytest.raises(ModelFileError, match=r"index.npy: .* can't be read"):
        CachedTeacher.load(whole)
