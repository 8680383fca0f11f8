"""Packages of Debian: a client that stands in for apt-get, so that nothing here needs the network."""

import hashlib
from pathlib import Path

import pytest

from keras_transformer.checks import UserError
from keras_transformer.data import assets
from keras_transformer.data.archives import Member
from keras_transformer.data.assets import Asset, fetch

CONTENT = b"pages\n"
PACKAGE = b"!<arch>\n" + f"{'data.tar.xz':<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(CONTENT):<10}`\n".encode() + CONTENT


def asset(package: bytes = PACKAGE) -> Asset:
    member = Member("data.tar.xz", "snow.tar.xz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    digest = hashlib.sha256(package).hexdigest()
    return Asset("snow", "snow-doc", "1.5-2", False, len(package), digest, (member,), is_debian=True)


@pytest.fixture
def client(tmp_path, monkeypatch) -> Path:
    """A folder that is all of PATH; its apt-get writes PACKAGE, or fails if that is not asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "package").write_bytes(PACKAGE)
    script = folder / "apt-get"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$*" = "download --quiet snow-doc=1.5-2" ]; then\n'
        f"    /bin/cp {tmp_path / 'package'} snow-doc_1.5-2_all.deb\n"
        "else\n"
        '    echo "W: a warning" >&2; echo "E: Version not found" >&2; exit 100\n'
        "fi\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    return folder


def test_the_wanted_file_is_in_the_cache_and_nothing_is_fetched_twice(client):
    told = []
    folder = fetch(asset(), told.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"snow.tar.xz": CONTENT}
    assert told == [f"Fetching snow-doc=1.5-2 (0.0 MB) into {folder}"]
    (client / "apt-get").unlink()
    assert fetch(asset(), told.append) == folder
    assert len(told) == 1


def test_a_package_with_other_bytes_is_not_used(client, tmp_path):
    with pytest.raises(UserError, match=r"snow: .* another file for snow-doc=1\.5-2 than the one with sha256"):
        fetch(asset(PACKAGE + b"more"), print)
    assert not list((tmp_path / "cache").glob("snow-*"))


def test_what_apt_says_is_told(client):
    (client / "apt-get").write_text('#!/bin/sh\necho "W: a warning" >&2; echo "E: Version not found" >&2; exit 100\n')
    with pytest.raises(
        UserError, match=r"snow: apt-get can't fetch snow-doc=1\.5-2 \(E: Version not found\)\. It is of Debian 12"
    ):
        fetch(asset(), print)


def test_a_system_without_apt_is_told_so(client):
    (client / "apt-get").unlink()
    with pytest.raises(UserError, match="snow: is fetched with apt-get, which this system doesn't have"):
        fetch(asset(), print)
