"""A bundle is written whole and read with care. Nothing here needs TensorFlow: a model of bytes stands in."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest import mock

import pytest

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.files import SEAL, ModelFileError, sealed, sha256

FILES = ["examples.json", "labels.json", "manifest.json", "model.keras", "report.json", "tokenizer.json"]


class ModelOfBytes:
    """Saves itself as some bytes, in two writes with a pause, as a slow disk would."""

    def __init__(self, content: bytes = b"weights " * 1000, pause: float = 0.0) -> None:
        self.content, self.pause = content, pause

    def save(self, filepath: Path) -> None:
        half = len(self.content) // 2
        with open(filepath, "wb") as file:
            file.write(self.content[:half])
            file.flush()
            time.sleep(self.pause)
            file.write(self.content[half:])

    def count_params(self) -> int:
        return 1009


class TokenizerOfText:
    def to_json(self) -> str:
        return '{"vocab": ["[PAD]", "naïve 🙂"]}'


def save(folder: Path, **changes) -> bundle.Manifest:
    arguments = {
        "model": ModelOfBytes(),
        "tokenizer": TokenizerOfText(),
        "labels": ["negative", "positive"],
        "task": "classify",
        "max_length": 47,
        "metrics": {"accuracy": 0.875, "n": 2014},
        "command": "keras-transformer train classify --data reviews.csv --out runs/teacher",
        "report": {"epochs": 2},
        "examples": ["a fine film", "a dull one"],
    }
    with mock.patch.object(bundle, "_prove"):  # bytes can't be loaded; tests/test_bundle_proof.py has real models
        return bundle.save(folder, **{**arguments, **changes})


@pytest.fixture
def folder(tmp_path) -> Path:
    save(tmp_path / "teacher")
    return tmp_path / "teacher"


def change_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(sealed({name: value for name, value in content.items() if value is not None})))


def test_a_bundle_holds_its_six_files_and_nothing_lies_beside_it(folder):
    assert sorted(os.listdir(folder)) == FILES
    assert os.listdir(folder.parent) == ["teacher"]


def test_what_was_saved_is_read_back(folder):
    info = bundle.read(folder)
    assert info.labels == ["negative", "positive"]
    assert info.examples == ["a fine film", "a dull one"]
    assert info.bytes == 8000
    manifest = info.manifest
    assert (manifest.task, manifest.max_length, manifest.parameters) == ("classify", 47, 1009)
    assert manifest.metrics == {"accuracy": 0.875, "n": 2014}
    assert manifest.command.startswith("keras-transformer train classify")
    assert manifest.created.endswith("+00:00")
    assert set(manifest.versions) == {"keras_transformer", "keras", "tensorflow", "numpy"}
    assert json.loads((folder / "report.json").read_text()) == {"epochs": 2}


def test_save_returns_the_manifest_that_read_finds(tmp_path):
    assert save(tmp_path / "a") == bundle.read(tmp_path / "a").manifest


def test_the_manifest_has_the_sha256_of_every_other_file(folder):
    recorded = json.loads((folder / "manifest.json").read_text())["files"]
    assert sorted([*recorded, "manifest.json"]) == FILES
    for name, record in recorded.items():
        assert record == {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}


def test_at_most_200_examples_are_kept(tmp_path):
    save(tmp_path / "a", examples=[f"text {number}" for number in range(211)])
    assert bundle.read(tmp_path / "a").examples == [f"text {number}" for number in range(200)]


def test_reading_a_bundle_needs_neither_tensorflow_nor_keras(folder):
    code = (
        "import sys; from keras_transformer import bundle; bundle.read(sys.argv[1]); "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'h5py')))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0


def test_a_newer_bundle_replaces_an_older_one(folder):
    save(folder, labels=["bad", "fair", "good"])
    assert bundle.read(folder).labels == ["bad", "fair", "good"]
    assert sorted(os.listdir(folder)) == FILES
    assert os.listdir(folder.parent) == ["teacher"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "new").mkdir()
    save(tmp_path / "new")
    assert bundle.read(tmp_path / "new").labels == ["negative", "positive"]


def test_a_folder_with_other_things_is_refused_and_left_alone(folder):
    (folder / "my_notes.txt").write_text("two weeks of notes")
    with pytest.raises(UserError, match=r"teacher: holds my_notes\.txt, which saving .* would remove\. Give a new"):
        save(folder)
    assert (folder / "my_notes.txt").read_text() == "two weeks of notes"


def test_a_folder_that_never_was_a_bundle_is_refused_with_some_names(tmp_path):
    for name in "edcba":
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="holds a, b, c and more, which"):
        save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == list("abcde")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "teacher").write_text("mine")
    with pytest.raises(UserError, match="teacher: is a file, and a bundle is a folder"):
        save(tmp_path / "teacher")
    assert (tmp_path / "teacher").read_text() == "mine"


@pytest.mark.parametrize("labels", [[], ["only"], ["twice", "twice"], ["negative", ""], ["negative", 1]])
def test_labels_that_are_not_distinct_texts_are_refused(tmp_path, labels):
    with pytest.raises(ValueError, match="must be at least two distinct, non-empty texts"):
        save(tmp_path / "a", labels=labels)
    assert os.listdir(tmp_path) == []


def test_a_nan_among_the_metrics_keeps_the_older_bundle(folder):
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(folder, metrics={"accuracy": float("nan")})
    assert (folder / "manifest.json").read_bytes() == before
    assert os.listdir(folder.parent) == ["teacher"]


def test_a_full_disk_keeps_the_older_bundle(folder):
    """A limit on the size of files stands in for the full disk: the write fails half-way, as there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(UserError, match="teacher: the disk is full, nothing was written"):
            save(folder, model=ModelOfBytes(b"x" * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert bundle.read(folder).bytes == 8000
    assert os.listdir(folder.parent) == ["teacher"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"nowhere: there is no such folder\. Give a folder written by"):
        bundle.read(tmp_path / "nowhere")


def test_a_folder_that_is_no_bundle_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"is no bundle, it has no manifest\.json\. Give a folder written by"):
        bundle.read(tmp_path)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_missing_file_is_named_with_the_command_that_makes_it_again(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=rf"{name}: is missing\. .*again: keras-transformer train classify"):
        bundle.read(folder)


@pytest.mark.parametrize("share", [*range(0, 100, 5), 99.99])
def test_a_model_that_was_cut_short_is_named_with_both_lengths(folder, share):
    kept = int(8000 * share / 100)
    (folder / "model.keras").write_bytes((folder / "model.keras").read_bytes()[:kept])
    with pytest.raises(ModelFileError, match=rf"model\.keras: has {kept} bytes, and it was written with 8000"):
        bundle.read(folder)


@pytest.mark.parametrize("share", range(0, 100, 5))
def test_a_manifest_that_was_cut_short_is_named(folder, share):
    path = folder / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * share // 100])
    with pytest.raises(ModelFileError, match=r"manifest\.json: isn't readable JSON .*Write it again"):
        bundle.read(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_bit_that_flipped_in_any_file_is_noticed_before_anything_is_loaded(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"{name}: (has other bytes than when it was written|isn't readable)"):
        bundle.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": None}, "'task' is missing"),
        ({"files": None}, "'files' is missing"),
        ({"files": {}}, r"'files' doesn't list examples\.json"),
        ({"files": ["model.keras"]}, "object has no attribute 'items'"),
        (
            {"files": {"../../etc/passwd": {"sha256": "0", "bytes": 1}}},
            "'../../etc/passwd' is no plain file name",
        ),
        ({"format": 2}, "format is 2, and keras_transformer .* reads 1"),
        ({"max_length": -5}, "max_length=-5 must be a whole number"),
        ({"max_length": "47"}, "max_length='47' must be a whole number"),
        ({"parameters": "many"}, "invalid literal for int"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_named_with_the_reason(folder, changes, message):
    change_manifest(folder, **changes)
    with pytest.raises(ModelFileError, match=rf"manifest\.json: isn't a manifest of ours .*{message}"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"max_length": 47', '"max_length": 600', f"'{SEAL}' doesn't fit, so a field was changed"),
        ('"max_length": 47', '"max_length": 2', f"'{SEAL}' doesn't fit"),
        ('"task": "classify"', '"task": "classifx"', f"'{SEAL}' doesn't fit"),
        ('"n": 2014', '"n": 2015', f"'{SEAL}' doesn't fit"),
        (SEAL, f"x{SEAL}", f"'{SEAL}' is missing"),
    ],
)
def test_a_manifest_in_which_one_value_was_changed_is_named(folder, before, after, reason):
    path = folder / "manifest.json"
    assert path.read_text().count(before) == 1
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ModelFileError, match=rf"manifest\.json: isn't a manifest of ours \({reason}.*make the bundle"):
        bundle.read(folder)


def test_a_manifest_that_was_only_laid_out_anew_is_read(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert bundle.read(folder).manifest.max_length == 47


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"'])
def test_a_manifest_that_is_no_object_is_named(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"manifest\.json: isn't a manifest of ours"):
        bundle.read(folder)


def test_fields_that_a_later_version_added_are_passed_over(folder):
    change_manifest(folder, licence="Apache-2.0")
    assert bundle.read(folder).manifest.task == "classify"


@pytest.mark.parametrize("name", ["labels.json", "examples.json"])
@pytest.mark.parametrize("content", ["{}", "[1, 2]", '["a", null]'])
def test_labels_and_examples_must_be_lists_of_texts(folder, name, content):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    (folder / name).write_text(content)
    change_manifest(folder, files={**files, name: {"sha256": sha256(folder / name), "bytes": len(content)}})
    with pytest.raises(ModelFileError, match=rf"{name}: must be a JSON list of texts"):
        bundle.read(folder)


def test_a_huge_small_file_is_refused_before_it_is_read(folder):
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(bundle.SMALL_FILE_BYTES + 1)
    with pytest.raises(ModelFileError, match=r"manifest\.json: has \d+ bytes, and the limit is \d+"):
        bundle.read(folder)


def test_a_bundle_of_another_task_is_refused_with_both_names(tmp_path):
    save(tmp_path / "translator", task="translate", labels=())
    with pytest.raises(ModelFileError, match="was trained for 'translate', and 'classify' is needed here"):
        bundle.load(tmp_path / "translator", task="classify")


SAVE_FOR_EVER = """
    import itertools, sys
    sys.path.insert(0, sys.argv[2])
    from test_bundle import ModelOfBytes, save
    for number in itertools.count():
        save(sys.argv[1], model=ModelOfBytes(str(number).encode() * 5000, pause=0.002))
        print("saved", flush=True)
"""


def test_sigkill_in_a_save_loop_leaves_the_old_or_the_new_bundle(folder):
    for round_number in range(10):
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(SAVE_FOR_EVER),
            str(folder),
            str(Path(__file__).parent),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(1 + round_number % 3):
                assert writer.stdout.readline() == "saved\n"
            time.sleep(0.0011 * round_number)
            writer.kill()
        info = bundle.read(folder)
        for name, record in info.manifest.files.items():
            assert sha256(folder / name) == record.sha256
        assert info.bytes != 8000  # the bundle of before the first round


def test_a_bundle_survives_a_copy_to_another_place(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert bundle.read(tmp_path / "elsewhere").manifest == bundle.read(folder).manifest


def test_only_a_classifier_has_labels(tmp_path):
    with pytest.raises(ValueError, match=r"only a classifier has some, and task='translate'\. Leave them out"):
        save(tmp_path / "a", task="translate")
    save(tmp_path / "b", task="language-model", labels=())
    assert not (tmp_path / "b" / "labels.json").exists()
    assert bundle.read(tmp_path / "b").labels == []
    save(tmp_path / "b", task="language-model", labels=())  # replaces its own kind


def test_a_classifier_without_a_file_of_labels_is_refused(folder):
    content = json.loads((folder / "manifest.json").read_text())
    change_manifest(folder, files={name: entry for name, entry in content["files"].items() if name != "labels.json"})
    with pytest.raises(ModelFileError, match=r"'files' doesn't list labels\.json"):
        bundle.read(folder)
