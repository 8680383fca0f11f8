"""Assets end to end: real pip on a package index that is a folder, so that nothing here needs the network."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from keras_transformer.checks import UserError
from keras_transformer.data import assets
from keras_transformer.data.archives import Member
from keras_transformer.data.assets import Asset, fetch

CONTENT = b"line one\nline two\n"
MEMBER = Member("snow_data-1.5/data/lines.txt", "lines.txt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes for the only package index there is, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    return folder


def asset_of(package: Path, is_sdist: bool) -> Asset:
    content = package.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Asset("snow", "snow-data", "1.5", is_sdist, len(content), digest, (MEMBER,))


@pytest.fixture
def sdist(index, tmp_path) -> Asset:
    """A source package whose setup.py leaves a trace when it is run."""
    package = index / "snow-data-1.5.tar.gz"
    script = f"open({str(tmp_path / 'setup.py was run')!r}, 'w')\nimport setuptools\nsetuptools.setup(name='snow-data')"
    with tarfile.open(package, "w:gz") as archive:
        for name, content in (("snow_data-1.5/setup.py", script.encode()), (MEMBER.path, CONTENT)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return asset_of(package, is_sdist=True)


@pytest.fixture
def wheel(index) -> Asset:
    package = index / "snow_data-1.5-py3-none-any.whl"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr(MEMBER.path, CONTENT)
        archive.writestr("snow_data-1.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: snow-data\nVersion: 1.5\n")
        archive.writestr(
            "snow_data-1.5.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("snow_data-1.5.dist-info/RECORD", "")
    return asset_of(package, is_sdist=False)


def forbid_processes(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_the_wanted_files_and_no_others_are_in_the_cache(kind, request, tmp_path):
    told = []
    asset = request.getfixturevalue(kind)
    folder = fetch(asset, told.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"lines.txt": CONTENT}
    assert folder.parent == tmp_path / "cache"
    assert told == [f"Fetching snow-data==1.5 ({asset.bytes / 1e6:.1f} MB) into {folder}"]


def test_no_code_of_a_source_package_is_run(sdist, tmp_path):
    fetch(sdist, print)
    assert not (tmp_path / "setup.py was run").exists()


def test_a_second_call_starts_no_process_and_says_nothing(sdist, monkeypatch, capsys):
    first = fetch(sdist)
    assert "Fetching snow-data==1.5" in capsys.readouterr().err
    forbid_processes(monkeypatch)
    assert fetch(sdist) == first
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT.upper()])
def test_a_damaged_file_is_fetched_again(sdist, damage):
    path = fetch(sdist) / "lines.txt"
    path.write_bytes(damage)
    assert (fetch(sdist) / "lines.txt").read_bytes() == CONTENT


def test_without_a_package_index_the_error_says_what_to_do(sdist, index):
    (index / "snow-data-1.5.tar.gz").unlink()
    with pytest.raises(
        UserError, match=r"snow: snow-data==1\.5 isn't in the cache .* connect to a package index, or copy"
    ):
        fetch(sdist, print)


def test_another_package_under_the_same_name_is_not_used(sdist, tmp_path):
    with pytest.raises(UserError, match=r"snow: the package index gave another file for snow-data==1\.5"):
        fetch(replace(sdist, sha256="0" * 64), print)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock"] == []


def test_a_package_with_other_files_inside_leaves_nothing_in_the_cache(sdist, tmp_path):
    wrong = replace(
        sdist, members=(MEMBER, replace(MEMBER, sha256="1" * 64, name="second.txt", path=MEMBER.path + "x"))
    )
    with pytest.raises(UserError, match="has no file"):
        fetch(wrong, print)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_written_is_named(sdist, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"can't be used as the cache .* Set KERAS_TRANSFORMER_CACHE"):
        fetch(sdist, print)


def test_python_without_pip_is_told_how_to_get_it(sdist, monkeypatch):
    no_pip = subprocess.CompletedProcess([], 1, "", f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: no_pip)
    with pytest.raises(UserError, match=r"has none\. Run `.* -m ensurepip`"):
        fetch(sdist, print)


def test_two_processes_at_once_fetch_one_time(sdist, tmp_path):
    program = (
        "import sys\nfrom keras_transformer.data.archives import Member\n"
        "from keras_transformer.data.assets import Asset, fetch\n"
        f"print(fetch({sdist!r}))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert "".join(errors for _, errors in outputs).count("Fetching") == 1


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(assets.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert assets.cache_folder() == tmp_path / "xdg" / "keras_transformer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert assets.cache_folder() == tmp_path / "home" / ".cache" / "keras_transformer"
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "mine"))
    assert assets.cache_folder() == tmp_path / "mine"


def test_the_real_assets_are_what_their_pins_say():
    for asset in (assets.MOVIE_SNIPPETS, assets.MINILM):
        folder = fetch(asset)
        for member in asset.members:
            content = (folder / member.name).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (member.bytes, member.sha256)


def test_fetching_imports_neither_tensorflow_nor_keras():
    program = "import sys, keras_transformer.data.assets; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
