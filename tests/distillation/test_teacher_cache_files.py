"""A teacher cache on the disk: kills, damage, foreign files."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.checks import UserError
from keras_transformer.data.batching import Batches
from keras_transformer.distillation import CachedTeacher, cache_teacher
from keras_transformer.distillation.cache_parts import Part, PartWriter, RecordedOutput
from keras_transformer.distillation.recordings import LOCK, MANIFEST
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

for kill in range(3):  # each at another moment of the writing
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


def test_kills_while_writing_leave_a_cache_that_the_next_call_completes(forked, tmp_path):
    folder, logits = tmp_path / "cache", tmp_path / "logits.npy"
    run = forked.run(PROGRAM, folder, logits)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout == "5000\n"
    assert not list(folder.rglob(".*"))  # what the killed ones had begun
    x = np.random.default_rng(5).normal(size=(5000, 7)).astype("float32")
    got = next(iter(CachedTeacher.load(folder).attach(tf.data.Dataset.from_tensors(x))))
    np.testing.assert_allclose(got["teacher_logits"], np.load(logits), atol=1e-6)


def test_keys_are_found_whatever_their_bytes(tmp_path):
    """Zeros at the end of a key are where numpy's byte strings could mix two up."""
    random = np.random.default_rng(3)
    edges = [b"", b"a", b"\0a", b"a\0b", b"\xff" * 16, b"\xff" * 15, b"\0" * 15 + b"a"]
    known = np.array([*edges, *(random.bytes(16) for _ in range(500))], "S16")
    order = random.permutation(len(known))
    output = RecordedOutput("place", "int32", ())
    writer = PartWriter(tmp_path / "part", [output])
    for rows in np.array_split(order, 7):
        writer.add(known[rows], np.zeros(len(rows)), {"place": rows})
    writer.finish()
    part = Part(tmp_path / "part", [output])
    rows = part.find(known)
    places = np.full(len(known), -1, "int32")
    part.read(output, rows, np.arange(len(known)), places)
    np.testing.assert_array_equal(places, np.arange(len(known)))
    unknown = np.array([b"b", b"\0", b"a\0a", b"\xff" * 14, *(random.bytes(16) for _ in range(500))], "S16")
    assert set(part.find(unknown[2:])) == {-1}
    assert part.find(unknown[:2]).tolist() == [-1, rows[0]]  # b"\0" is sixteen zeros, as b"" is


def test_what_a_kill_left_in_the_first_moment_is_no_other_folder(classifier, tmp_path):
    (tmp_path / ".teacher_cache.json.0123abcd.partial").write_text("{")
    assert len(cache_teacher(classifier(), tf.data.Dataset.from_tensors(np.ones((1, 7), "float32")), tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "teacher_cache.json"]


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


HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "wb")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_that_another_process_records_into_is_refused_until_it_is_killed(teacher, whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    begun = whole / "parts" / ".part_000001.0123abcd.partial"
    begun.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(whole / LOCK)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"cache: somebody else is recording into this folder.*Wait until that"):
            cache_teacher(teacher, Batches([[3, 3]], batch_size=1), whole)
        assert begun.is_dir()  # the other's part
        other.kill()
    assert (whole / LOCK).is_file()
    assert len(cache_teacher(teacher, Batches([[3, 3]], batch_size=1), whole)) == 4
    assert not list(whole.rglob(".*"))
    assert all(path.read_bytes() == content for path, content in before.items() if path.name != MANIFEST)


def test_a_recording_within_a_recording_is_refused_and_the_outer_one_completes(teacher, tmp_path):
    def texts():
        yield np.array([[1, 5]], "int32")
        with pytest.raises(UserError, match="somebody else is recording"):
            cache_teacher(teacher, DATA, tmp_path / "cache")
        yield np.array([[7, 7]], "int32")

    data = tf.data.Dataset.from_generator(texts, output_signature=tf.TensorSpec((1, 2), tf.int32))
    assert len(cache_teacher(teacher, data, tmp_path / "cache")) == 2
    assert len(CachedTeacher.load(tmp_path / "cache")) == 2


def test_a_lock_whose_file_was_taken_away_since_is_asked_for_again(teacher, tmp_path, monkeypatch):
    """Between our opening the file and locking it its holder ended: that lock keeps nobody out any more."""
    path, flock, asked = tmp_path / "cache" / LOCK, fcntl.flock, []

    def taken_away_first(file, operation):
        if not asked:
            path.unlink()
        asked.append(os.fstat(file.fileno()).st_ino)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", taken_away_first)
    assert len(cache_teacher(teacher, DATA, tmp_path / "cache")) == 3
    assert len(asked) == 2


def test_a_file_system_without_locks_is_told(teacher, tmp_path, monkeypatch):
    def none(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UserError, match=r"can't be locked .*\(No locks available\). Give a folder on a local disk"):
        cache_teacher(teacher, DATA, tmp_path / "cache")


def test_a_folder_that_can_not_be_made_is_told(teacher, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/cache: can't be written \(Not a directory\). Give another folder"):
        cache_teacher(teacher, DATA, tmp_path / "file" / "cache")


def test_a_complete_cache_on_a_disk_that_can_only_be_read_is_used_as_it_is(teacher, whole, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: pytest.fail("there is no file to lock"))
    assert len(cache_teacher(teacher, DATA, whole)) == 3


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
