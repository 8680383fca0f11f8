"""What travels with an exported model comes back as it went in, and damage is found before anything runs."""

import hashlib
import json
import random
import shutil
import zipfile
from dataclasses import replace

import pytest

from keras_transformer.export import attachments
from keras_transformer.export.attachments import Attachments, Part, Settings
from keras_transformer.files import SEAL, ModelFileError, sealed

FLATBUFFER = bytes(random.Random(5).randbytes(5003))
SETTINGS = Settings(
    task="classify",
    format="tflite_int8",
    max_length=17,
    vocab_size=211,
    parameters=1009,
    version="0.1.0",
    parts={"model.tflite": Part(hashlib.sha256(FLATBUFFER).hexdigest(), len(FLATBUFFER))},
)
ATTACHED = Attachments('{"model": "é"}', ["schlecht", "größer", "😀"], SETTINGS)


@pytest.fixture
def whole_file(tmp_path):
    path = tmp_path / "whole.tflite"
    path.write_bytes(FLATBUFFER)
    attachments.append_to_file(path, ATTACHED)
    return path


@pytest.fixture
def whole_folder(tmp_path):
    folder = tmp_path / "1"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(FLATBUFFER[:401])
    (folder / "variables" / "variables.index").write_bytes(FLATBUFFER[401:])
    parts = attachments.parts_of_folder(folder)
    attachments.write_to_folder(folder, replace(ATTACHED, settings=replace(SETTINGS, parts=parts)))
    return folder


def read_or_error(path):
    try:
        return attachments.read_from_file(path)
    except ModelFileError as error:
        return error


def test_the_flatbuffer_stays_in_front_and_the_rest_comes_back(whole_file):
    assert whole_file.read_bytes()[: len(FLATBUFFER)] == FLATBUFFER
    assert attachments.read_from_file(whole_file) == ATTACHED


def test_any_archive_tool_reads_the_attachments(whole_file):
    with zipfile.ZipFile(whole_file) as archive:
        assert sorted(archive.namelist()) == ["labels.json", "settings.json", "tokenizer.json"]
        assert json.loads(archive.read("labels.json")) == ATTACHED.labels
        assert json.loads(archive.read("settings.json"))["max_length"] == 17


def test_the_same_model_gives_the_same_bytes(whole_file, tmp_path):
    again = tmp_path / "again.tflite"
    again.write_bytes(FLATBUFFER)
    attachments.append_to_file(again, ATTACHED)
    assert again.read_bytes() == whole_file.read_bytes()


def test_a_file_cut_short_anywhere_is_named(whole_file, tmp_path):
    content = whole_file.read_bytes()
    cut = tmp_path / "cut.tflite"
    for percent in range(100):
        cut.write_bytes(content[: len(content) * percent // 100])
        with pytest.raises(ModelFileError, match=r"cut\.tflite: can't be read as a \.tflite file of ours"):
            attachments.read_from_file(cut)


def test_a_flipped_bit_is_found_or_changes_nothing(whole_file, tmp_path):
    content = bytearray(whole_file.read_bytes())
    draw, found = random.Random(7), 0
    flipped = tmp_path / "flipped.tflite"
    places = [draw.randrange(len(content)) for _ in range(50)] + list(range(len(FLATBUFFER), len(content), 3))
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        flipped.write_bytes(changed)
        answer = read_or_error(flipped)
        if answer != ATTACHED:
            assert f"{flipped}: " in str(answer), f"byte {place}"
            found += 1
        elif place < len(FLATBUFFER):
            pytest.fail(f"byte {place} of the model was flipped and not found")
    assert found > 0.6 * len(places)  # dates and attributes of archive members mean nothing to us


def test_bytes_of_another_model_in_front_are_found(whole_file):
    content = whole_file.read_bytes()
    whole_file.write_bytes(b"\x01" + content[1:])
    with pytest.raises(ModelFileError, match="its model isn't the one that was written: cut short or changed"):
        attachments.read_from_file(whole_file)


def test_a_plain_flatbuffer_says_how_to_get_a_whole_file(tmp_path):
    path = tmp_path / "plain.tflite"
    path.write_bytes(FLATBUFFER)
    with pytest.raises(ModelFileError, match=r"made by another tool.*write it again with `keras-transformer export`"):
        attachments.read_from_file(path)


def test_an_archive_without_labels_names_what_is_missing(tmp_path):
    path = tmp_path / "metadata.tflite"
    path.write_bytes(FLATBUFFER)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "a\nb")
    with pytest.raises(ModelFileError, match=r"metadata\.tflite: has no tokenizer\.json inside"):
        attachments.read_from_file(path)


def test_an_attachment_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(attachments, "MEMBER_BYTES", 1000)
    path = tmp_path / "bomb.tflite"
    path.write_bytes(FLATBUFFER)
    attachments.append_to_file(path, replace(ATTACHED, tokenizer_json=" " * 1001))
    with pytest.raises(ModelFileError, match=r"tokenizer\.json claims 1001 bytes, and the limit is 1000"):
        attachments.read_from_file(path)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("max_length", 0, "max_length=0 must be a whole number"),
        ("max_length", "17", "max_length='17' must be a whole number"),
        ("vocab_size", 2.5, r"vocab_size=2\.5 must be a whole number"),
        ("attachments_format", 2, "attachments_format is 2, and this version reads 1"),
        ("parts", {"../../etc/passwd": {"sha256": "0", "bytes": 1}}, "isn't a name inside the folder"),
        ("parts", {"/etc/passwd": {"sha256": "0", "bytes": 1}}, "isn't a name inside the folder"),
        ("parts", {"x": {"sha256": "0"}}, "'bytes' is missing"),
        ("parts", [], r"settings\.json: isn't what we wrote .*Take it from a backup, or write it again"),
        ("beside", {}, "'tokenizer.json' is missing"),
    ],
)
def test_settings_that_we_did_not_write_are_refused(whole_folder, field, value, reason):
    place = whole_folder / "assets.extra" / "settings.json"
    place.write_text(json.dumps(sealed({**json.loads(place.read_text()), field: value})))
    with pytest.raises(ModelFileError, match=reason):
        attachments.read_from_folder(whole_folder)


def test_a_folder_comes_back_as_it_was_written(whole_folder):
    found = attachments.read_from_folder(whole_folder)
    assert found.labels == ATTACHED.labels
    assert found.tokenizer_json == ATTACHED.tokenizer_json
    assert sorted(found.settings.parts) == ["saved_model.pb", "variables/variables.index"]


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "longer"])
def test_a_damaged_file_in_a_folder_is_named(whole_folder, name, damage):
    path = whole_folder / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        flipped = content[:99] + bytes([content[99] ^ 1]) + content[100:]
        path.write_bytes({"cut": content[:-1], "flipped": flipped, "longer": content + b"\0"}[damage])
    with pytest.raises(ModelFileError, match=f"{name}: is missing, cut short or changed"):
        attachments.read_from_folder(whole_folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "labels.json", "settings.json"])
def test_a_folder_without_an_attachment_names_it(whole_folder, name):
    (whole_folder / "assets.extra" / name).unlink()
    with pytest.raises(ModelFileError, match=f"has no usable assets.extra/{name}"):
        attachments.read_from_folder(whole_folder)


def test_a_folder_of_another_program_says_how_to_get_ours(whole_folder):
    shutil.rmtree(whole_folder / "assets.extra")
    with pytest.raises(ModelFileError, match="Write it again with `keras-transformer export`"):
        attachments.read_from_folder(whole_folder)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'["a", 1]', b"\xff\xfe", b"[" * 100_000])
def test_labels_that_are_no_list_of_texts_are_refused(whole_folder, content):
    (whole_folder / "assets.extra" / "labels.json").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"labels\.json: (was cut short or changed|isn't UTF-8)"):
        attachments.read_from_folder(whole_folder)


@pytest.mark.parametrize("content", ["[]", "{}", '["a", 1]', "[" * 100_000])
def test_labels_that_were_written_wrong_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr(attachments.json, "dumps", real_dumps_but_labels(content))
    (tmp_path / "1").mkdir()
    attachments.write_to_folder(tmp_path / "1", replace(ATTACHED, settings=replace(SETTINGS, parts={})))
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match=r"labels\.json: isn't what we wrote"):
        attachments.read_from_folder(tmp_path / "1")


def real_dumps_but_labels(content):
    dumps = json.dumps
    return lambda value, **options: content if value == ATTACHED.labels else dumps(value, **options)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("labels.json", "schlecht", "schlacht"),
        ("tokenizer.json", "model", "mobel"),
        ("settings.json", '"max_length": 17', '"max_length": 6'),
        ("settings.json", '"task": "classify"', '"task": "classifx"'),
        ("settings.json", SEAL, f"x{SEAL}"),
    ],
)
def test_a_change_that_could_be_meant_is_found_in_a_folder(whole_folder, name, before, after):
    path = whole_folder / "assets.extra" / name
    assert before in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    with pytest.raises(
        ModelFileError, match=rf"assets\.extra/{name}: .*write it again with `keras-transformer export`"
    ):
        attachments.read_from_folder(whole_folder)


def test_a_changed_label_is_found_in_a_file_that_was_packed_again(whole_file, tmp_path):
    with zipfile.ZipFile(whole_file) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    again = tmp_path / "again.tflite"
    again.write_bytes(FLATBUFFER)
    with zipfile.ZipFile(again, "a") as archive:
        for name, text in members.items():
            archive.writestr(name, text.replace("schlecht", "schlacht"))
    with pytest.raises(ModelFileError, match=r"again\.tflite \(labels\.json inside\): was cut short or changed"):
        attachments.read_from_file(again)


def test_settings_with_a_field_of_a_later_version_are_read(whole_folder):
    place = whole_folder / "assets.extra" / "settings.json"
    place.write_text(json.dumps(sealed({**json.loads(place.read_text()), "licence": "Apache-2.0"})))
    assert attachments.read_from_folder(whole_folder).settings.max_length == 17
