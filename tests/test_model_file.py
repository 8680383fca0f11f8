"""A `.keras` file loads as it was saved or ends in one ModelFileError naming it; crafted ones do no harm."""

import io
import json
import os
import random
import resource
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from keras_transformer import bundle
from keras_transformer.files import ModelFileError, sealed, sha256
from keras_transformer.model_file import CONFIG_BYTES, check_archive, load_model

TOKEN_IDS = np.array([[2, 7, 11, 3, 0], [2, 5, 3, 0, 0]], dtype="int32")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, small_model) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    small_model.save(path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def seal(path: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive with right checksums, as somebody would who means it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def weights_file(write) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    return buffer.getvalue()


def outcome(path: Path) -> str:
    """What loading came to: a model, or the file that a ModelFileError names. Other errors get through."""
    try:
        load_model(path)
    except ModelFileError as error:
        return Path(str(error).split(": ")[0]).name
    return "a model"


def test_a_loaded_model_gives_the_logits_of_the_saved_one(saved, small_model):
    np.testing.assert_array_equal(load_model(saved)(TOKEN_IDS), small_model(TOKEN_IDS))


def test_a_file_that_was_cut_short_at_each_twentieth_is_named(saved, tmp_path):
    content, cut = saved.read_bytes(), tmp_path / "cut.keras"
    for part in range(20):
        cut.write_bytes(content[: len(content) * part // 20])
        with pytest.raises(ModelFileError, match=r"cut\.keras: isn't a whole \.keras file .*Take it from a backup"):
            load_model(cut)


def test_a_flipped_bit_in_the_weights_is_noticed_without_a_manifest(saved, tmp_path):
    content, flipped = saved.read_bytes(), tmp_path / "flipped.keras"
    start = content.index(b"\x89HDF")
    for place in random.Random(11).sample(range(start, start + 20_000), 13):
        changed = bytearray(content)
        changed[place] ^= 8
        flipped.write_bytes(changed)
        with pytest.raises(ModelFileError, match=r"flipped\.keras: "):
            load_model(flipped)


def test_any_byte_changed_under_a_right_checksum_loads_or_is_named(saved, tmp_path):
    """Whoever can write a file can also write its checksums: then only our error may come out, or a model."""
    parts, generator = members(saved), random.Random(3)
    for _ in range(11):
        name = generator.choice(list(parts))
        changed = bytearray(parts[name])
        changed[generator.randrange(min(len(changed), 5000))] = generator.randrange(256)
        path = seal(tmp_path / "changed.keras", {**parts, name: bytes(changed)})
        assert outcome(path) in ("a model", "changed.keras")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.keras", tmp_path):
        with pytest.raises(ModelFileError, match="there is no such file"):
            load_model(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused_by_name(saved, tmp_path, value):
    model = load_model(saved)
    kernel = model.get_layer("logits").kernel
    wild = keras.ops.convert_to_numpy(kernel)
    wild[1, 2] = value
    kernel.assign(wild)
    model.save(tmp_path / "wild.keras")
    with pytest.raises(ModelFileError, match=r"wild\.keras: its weight '.*logits/kernel' holds NaN or infinity"):
        load_model(tmp_path / "wild.keras")


def test_an_archive_with_another_member_is_refused(saved, tmp_path):
    path = seal(tmp_path / "more.keras", {**members(saved), "../../escape.txt": b"out"})
    with pytest.raises(ModelFileError, match=r"more\.keras: holds \[.*escape"):
        load_model(path)
    assert not (tmp_path.parent.parent / "escape.txt").exists()


def test_a_compressed_archive_is_refused_before_it_is_unpacked(saved, tmp_path):
    bomb = {**members(saved), "model.weights.h5": b"\0" * (64 << 20)}
    path = seal(tmp_path / "bomb.keras", bomb, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match=r"bomb\.keras: \S+ is compressed, and Keras stores it plain"):
        load_model(path)


def test_a_huge_config_is_refused(saved, tmp_path):
    path = seal(tmp_path / "huge.keras", {**members(saved), "config.json": b" " * (CONFIG_BYTES + 1)})
    with pytest.raises(ModelFileError, match=r"huge\.keras: its config\.json has \d+ bytes, and the limit is"):
        load_model(path)


def test_a_config_that_is_nested_without_end_is_refused(saved, tmp_path):
    path = seal(tmp_path / "deep.keras", {**members(saved), "config.json": b"[" * 100_000})
    with pytest.raises(ModelFileError, match=r"deep\.keras: "):
        load_model(path)


def test_weights_that_claim_more_than_the_file_holds_are_refused(saved, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inflated = weights_file(
        lambda file: file.create_dataset("a", (1 << 29,), "float32", chunks=(1 << 20,), compression="gzip")
    )
    path = seal(tmp_path / "inflated.keras", {**members(saved), "model.weights.h5": inflated})
    with pytest.raises(ModelFileError, match=rf"inflated\.keras: its weights claim {1 << 31} bytes, \d+ are there"):
        load_model(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB on Linux


def test_weights_that_lie_in_another_file_are_refused(saved, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\1" * 4096)
    h5py.File(tmp_path / "other.h5", "w").close()

    def external_data(file):
        file.create_dataset("a", (1024,), "float32", external=[(str(secret), 0, 4096)])

    def external_link(file):
        file["a"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")

    def virtual_data(file):
        layout = h5py.VirtualLayout((4,), "float32")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
        file.create_virtual_dataset("a", layout)

    for number, write in enumerate((external_data, external_link, virtual_data)):
        parts = {**members(saved), "model.weights.h5": weights_file(write)}
        path = seal(tmp_path / f"link{number}.keras", parts)
        with pytest.raises(ModelFileError, match=r"link\d\.keras: its weight 'a' lies outside of the file"):
            check_archive(path)


def test_hard_links_in_a_ring_come_to_an_end(saved, tmp_path):
    def ring(file):
        file.create_group("a/b")
        file["a/b/c"] = file["a"]

    path = seal(tmp_path / "ring.keras", {**members(saved), "model.weights.h5": weights_file(ring)})
    assert check_archive(path) is None


def test_code_inside_a_model_is_refused_and_never_run(saved, tmp_path):
    canary = str(tmp_path / "canary")

    def identity(x, place=canary):
        with open(place, "w"):
            return x

    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(identity)])
    model.save(tmp_path / "lambda.keras")
    os.remove(canary)  # building the model ran it, here
    with pytest.raises(ModelFileError, match=r"lambda\.keras: Keras can't load it .*keras_transformer alone"):
        load_model(tmp_path / "lambda.keras")
    assert not os.path.exists(canary)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("builtins", "eval"), ("keras.utils", "get_file"), ("nowhere", "Model")],
)
def test_a_config_that_names_a_function_is_refused_and_never_calls_it(saved, tmp_path, module, name):
    canary = tmp_path / "canary"
    config = {
        "module": module,
        "class_name": name,
        "config": {"command": f"touch {canary}"},
        "registered_name": name,
    }
    path = seal(tmp_path / "gadget.keras", {**members(saved), "config.json": json.dumps(config).encode()})
    with pytest.raises(ModelFileError, match=r"gadget\.keras: Keras can't load it"):
        load_model(path)
    assert not canary.exists()


def test_a_bundle_loads_with_its_model_tokenizer_and_labels(small_bundle, small_model, small_tokenizer):
    loaded = bundle.load(small_bundle, task="classify")
    np.testing.assert_array_equal(loaded.model(TOKEN_IDS), small_model(TOKEN_IDS))
    assert loaded.tokenizer.encode(["a dull film"], 13) == small_tokenizer.encode(["a dull film"], 13)
    assert loaded.labels == ["negative", "neutral", "positive"]
    assert loaded.manifest.parameters == small_model.count_params()
    assert loaded.examples[0] == "a fine and funny film"


def test_a_bundle_whose_labels_do_not_fit_the_model_is_refused(small_bundle, tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(small_bundle, folder)
    (folder / "labels.json").write_text('["negative", "positive"]')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["labels.json"] = {
        "sha256": sha256(folder / "labels.json"),
        "bytes": os.path.getsize(folder / "labels.json"),
    }
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(ModelFileError, match=r"the model tells 3 classes apart, and labels\.json names 2"):
        bundle.load(folder)


def test_a_damaged_bundle_leaves_the_process_able_to_load_a_whole_one(small_bundle, tmp_path):
    folder = tmp_path / "flipped"
    shutil.copytree(small_bundle, folder)
    content = bytearray((folder / "model.keras").read_bytes())
    content[-1000] ^= 2
    (folder / "model.keras").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.keras: has other bytes than when it was written"):
        bundle.load(folder)
    assert bundle.load(small_bundle).labels[0] == "negative"
