"""A file is whole or absent: after an error, a full disk or a kill, what stood there before still stands."""

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from keras_transformer import files
from keras_transformer.checks import UserError
from keras_transformer.files import (
    SEAL,
    ModelFileError,
    check_seal,
    read_json,
    sealed,
    sha256,
    size_on_disk,
    staged,
    write_json,
)


def write_folder(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text(text)
    (folder / "below").mkdir()
    (folder / "below" / "b.txt").write_text(text)


def write_half_and_raise(target: Path, error: BaseException) -> None:
    with staged(target) as staging:
        staging.write_bytes(b"half")
        raise error


def test_a_staged_file_appears_at_the_end_with_its_folders(tmp_path):
    target = tmp_path / "new" / "deep" / "model.tflite"
    with staged(target) as staging:
        staging.write_bytes(b"whole")
        assert staging.parent == target.parent
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["model.tflite"]


def test_an_error_in_the_body_leaves_the_older_file_and_nothing_else(tmp_path):
    target = tmp_path / "model.tflite"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="conversion"):
        write_half_and_raise(target, RuntimeError("conversion"))
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_an_error_leaves_no_new_folder_above_the_place(tmp_path):
    with pytest.raises(RuntimeError, match="conversion"):
        write_half_and_raise(tmp_path / "new" / "deep" / "model.tflite", RuntimeError("conversion"))
    assert os.listdir(tmp_path) == []


def test_ctrl_c_in_the_body_leaves_the_older_folder_and_nothing_else(tmp_path):
    target = tmp_path / "bundle"
    write_folder(target, "old")
    with pytest.raises(KeyboardInterrupt):
        write_half_and_raise(target, KeyboardInterrupt())
    assert (target / "below" / "b.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_replaces_a_folder_as_a_whole(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    target = tmp_path / "bundle"
    write_folder(target, "old")
    (target / "only_in_the_old_one.txt").write_text("old")
    with staged(target) as staging:
        write_folder(staging, "new")
    assert sorted(os.listdir(target)) == ["a.txt", "below"]
    assert (target / "below" / "b.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["bundle"]


def test_where_the_second_rename_fails_the_older_folder_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    real_rename = os.rename

    def rename(source, destination):
        if str(source).endswith(".partial"):
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        real_rename(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    target = tmp_path / "bundle"
    write_folder(target, "old")
    with pytest.raises(UserError, match="the disk is full"), staged(target) as staging:
        write_folder(staging, "new")
    assert (target / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_file_never_replaces_a_folder(tmp_path):
    target = tmp_path / "student"
    write_folder(target, "hours of training")
    with pytest.raises(UserError, match=r"student: is a folder, and a file is to be written there\. Give another"):
        write_json(target, {})
    assert (target / "a.txt").read_text() == "hours of training"


def test_a_folder_never_replaces_a_file(tmp_path):
    target = tmp_path / "notes"
    target.write_text("mine")
    with (
        pytest.raises(UserError, match="notes: is a file, and a folder is to be written"),
        staged(target) as staging,
    ):
        write_folder(staging, "new")
    assert target.read_text() == "mine"


def test_a_link_stays_a_link_and_what_it_points_at_is_replaced(tmp_path):
    real, link = tmp_path / "disk" / "bundle", tmp_path / "link"
    real.parent.mkdir()
    write_folder(real, "old")
    link.symlink_to(real)
    with staged(link) as staging:
        write_folder(staging, "new")
    assert link.is_symlink()
    assert (real / "a.txt").read_text() == "new"


def test_the_root_of_the_file_system_is_refused():
    with pytest.raises(UserError, match=r"/: is the root of the file system\. Give a name"), staged("/"):
        pass


def test_a_file_where_a_folder_should_be_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "model.tflite", tmp_path / "file" / "deeper" / "model.tflite"):
        with pytest.raises(UserError, match=r"model\.tflite: can't be written .*Give a place that you may write to"):
            write_json(place, {})


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc, in which no file can be made")
@pytest.mark.parametrize("place", ["/proc/model.tflite", "/proc/new/model.tflite"])
def test_a_file_system_that_takes_no_files_is_the_users_mistake(place):
    with pytest.raises(UserError, match=rf"{place}: can't be written \(No such file or directory\)\. Give a place"):
        write_json(place, {})


def test_an_input_that_is_missing_beside_the_place_is_not_blamed_on_the_place(tmp_path):
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "input.csv"))
    with pytest.raises(FileNotFoundError):
        write_half_and_raise(tmp_path / "out", error)


def test_a_body_that_writes_nothing_is_no_mistake_of_the_user(tmp_path):
    with pytest.raises(FileNotFoundError), staged(tmp_path / "out"):
        pass


def test_a_seal_fits_its_fields_in_any_order_and_no_others():
    content = {"b": [1, 2.5, None], "a": {"é": "\ud800"}}
    whole = sealed(content)
    assert {name: whole[name] for name in content} == content
    check_seal(dict(reversed(whole.items())))
    check_seal(json.loads(json.dumps(whole)))
    for changed in ({**whole, "b": [1, 2.5, 0]}, {**whole, "c": 1}, {"a": 1, SEAL: whole[SEAL]}):
        with pytest.raises(ValueError, match="doesn't fit, so a field was changed"):
            check_seal(changed)
    with pytest.raises(ValueError, match="is missing"):
        check_seal(content)


def test_a_seal_is_the_sha256_of_canonical_json():
    canonical = b'{"a":"\\u00e9","b":1}'
    assert sealed({"b": 1, "a": "é"})[SEAL] == hashlib.sha256(canonical).hexdigest()


def test_a_name_that_is_too_long_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="can't be written"):
        write_json(tmp_path / ("n" * 300), {})


def test_the_longest_name_that_the_system_allows_can_be_written(tmp_path):
    write_json(tmp_path / ("n" * 255), {"a": 1})
    assert os.listdir(tmp_path) == ["n" * 255]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_forbidden_place_is_the_users_mistake(tmp_path, code):
    target = tmp_path / "model.tflite"
    with pytest.raises(UserError, match=r"model\.tflite: can't be written"), staged(target) as staging:
        raise OSError(code, os.strerror(code), str(staging))


def test_an_error_about_another_file_keeps_its_own_name(tmp_path):
    error = PermissionError(errno.EACCES, "Permission denied", "/somewhere/else/input.csv")
    with pytest.raises(PermissionError) as caught:
        write_half_and_raise(tmp_path / "out", error)
    assert caught.value.filename == "/somewhere/else/input.csv"
    assert caught.value.__cause__ is None
    assert os.listdir(tmp_path) == []


def test_a_full_disk_keeps_the_older_file(tmp_path):
    """A limit on the size of files stands in for the full disk: the write fails half-way, as there."""
    target = tmp_path / "model.bin"
    target.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(UserError, match=r"model\.bin: the disk is full, nothing .*\. Free some room"):
            write_json(target, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_json_comes_back_as_it_went_with_its_letters_readable(tmp_path):
    content = {"label": "très bon 🙂 עברית", "nul": "\0", "lone": "\ud800", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert "très bon 🙂 עברית" in (tmp_path / "a.json").read_bytes().decode("utf-8")


def test_a_number_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe{}", b"[" * 100_000])
def test_broken_json_names_the_file_and_the_fix(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"manifest\.json: isn't readable JSON .*Write it again"):
        read_json(path)


def test_a_missing_json_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.json: there is no such file\. Check the path"):
        read_json(tmp_path / "none.json")
    with pytest.raises(ModelFileError, match="can't be read"):
        read_json(tmp_path)


@pytest.mark.parametrize("size", [0, 1, files.HASH_CHUNK_BYTES, files.HASH_CHUNK_BYTES + 1])
def test_sha256_agrees_with_hashlib_at_the_edges_of_a_piece(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_size_on_disk_counts_a_file_and_all_files_below_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b").write_bytes(b"4567")
    assert size_on_disk(tmp_path / "a") == 3
    assert size_on_disk(tmp_path) == 7
    with pytest.raises(ModelFileError, match="nothing: there is no such file or folder"):
        size_on_disk(tmp_path / "nothing")


WRITE_FOLDERS_FOR_EVER = """
    import itertools, sys
    from pathlib import Path
    from keras_transformer.files import staged
    for number in itertools.count():
        with staged(sys.argv[1]) as staging:
            staging.mkdir()
            for name in "abc":
                (staging / name).write_text(str(number))
        print("saved", flush=True)
"""


def test_sigkill_at_any_moment_leaves_one_whole_folder(tmp_path):
    target = tmp_path / "bundle"
    with staged(target) as staging:
        staging.mkdir()
        for name in "abc":
            (staging / name).write_text("-1")
    for round_number in range(12):
        command = [sys.executable, "-c", textwrap.dedent(WRITE_FOLDERS_FOR_EVER), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(1 + round_number):
                assert writer.stdout.readline() == "saved\n"
            time.sleep(0.0007 * round_number)
            writer.kill()
        assert sorted(os.listdir(target)) == ["a", "b", "c"]
        assert len({(target / name).read_text() for name in "abc"}) == 1
    assert json.loads((target / "a").read_text()) > -1
