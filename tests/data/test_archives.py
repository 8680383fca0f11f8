"""Taking files out of an archive: the wanted ones arrive whole, and an evil archive does nothing."""

import gzip
import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from keras_transformer.checks import UserError
from keras_transformer.data.archives import MAX_SCANNED_BYTES, Member, unpack

CONTENT = b"the wanted bytes\n"


def member(path: str = "package/data.txt", name: str = "data.txt", content: bytes = CONTENT) -> Member:
    return Member(path, name, len(content), hashlib.sha256(content).hexdigest())


def tar_with(path: Path, *infos: tarfile.TarInfo, content: bytes = CONTENT) -> Path:
    with tarfile.open(path, "w:gz") as package:
        for info in infos:
            if info.isreg():
                info.size = len(content)
                package.addfile(info, io.BytesIO(content))
            else:
                package.addfile(info)
    return path


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o777
    return info


def zip_with(path: Path, info: zipfile.ZipInfo | str, content: bytes = CONTENT) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr(info, content)
    return path


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_only_the_wanted_file_of_a_tar_is_written(tmp_path):
    archive = tar_with(tmp_path / "a.tar.gz", tar_info("other"), tar_info("package/data.txt"), tar_info("../escaped"))
    unpack(archive, [member()], tmp_path / "out")
    assert (tmp_path / "out" / "data.txt").read_bytes() == CONTENT
    assert everything_in(tmp_path) == {"a.tar.gz", "out", "out/data.txt"}


def test_only_the_wanted_file_of_a_zip_is_written(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as package:
        package.writestr("../escaped", b"evil")
        package.writestr("package/data.txt", CONTENT)
    unpack(archive, [member(name="deep/er.txt")], tmp_path / "out")
    assert everything_in(tmp_path) == {"a.zip", "out", "out/deep", "out/deep/er.txt"}


def test_a_mode_of_the_archive_is_not_taken_over(tmp_path):
    archive = tar_with(tmp_path / "a.tar.gz", tar_info("package/data.txt"))
    unpack(archive, [member()], tmp_path / "out")
    assert not (tmp_path / "out" / "data.txt").stat().st_mode & (stat.S_IXUSR | stat.S_IWOTH | stat.S_ISUID)


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../secret"),
        (tarfile.LNKTYPE, "package/other.txt"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
        (tarfile.DIRTYPE, ""),
    ],
)
def test_a_tar_member_that_is_no_plain_file_is_refused(tmp_path, kind, target):
    archive = tar_with(tmp_path / "a.tar.gz", tar_info("package/data.txt", kind, target))
    with pytest.raises(UserError, match=r"'package/data.txt' is a folder, a link or a device, not a plain file"):
        unpack(archive, [member()], tmp_path / "out")
    assert everything_in(tmp_path / "out") == set()


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFDIR])
def test_a_zip_member_that_is_no_plain_file_is_refused(tmp_path, mode):
    info = zipfile.ZipInfo("package/data.txt")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    with pytest.raises(UserError, match="not a plain file"):
        unpack(zip_with(tmp_path / "a.zip", info, b"/etc/passwd"), [member()], tmp_path / "out")
    assert everything_in(tmp_path / "out") == set()


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/escaped", "", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    archive = tar_with(tmp_path / "a.tar.gz", tar_info("package/data.txt"))
    with pytest.raises(UserError, match=r"would be written to .* outside"):
        unpack(archive, [member(name=name)], tmp_path / "out")
    assert everything_in(tmp_path) == {"a.tar.gz"}


def test_a_file_behind_a_link_that_leads_out_is_refused(tmp_path):
    archive = tar_with(tmp_path / "a.tar.gz", tar_info("package/data.txt"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="outside"):
        unpack(archive, [member(name="link/escaped")], tmp_path / "out")


@pytest.mark.parametrize("content", [CONTENT + b"x", CONTENT[:-1], b""])
def test_a_file_of_another_size_is_refused(tmp_path, content):
    archive = tar_with(tmp_path / "a.tar.gz", tar_info("package/data.txt"), content=content)
    with pytest.raises(UserError, match=rf"has {len(content)} bytes or more, not 17"):
        unpack(archive, [member()], tmp_path / "out")


def test_other_bytes_of_the_same_size_are_refused(tmp_path):
    archive = zip_with(tmp_path / "a.zip", "package/data.txt", CONTENT.upper())
    with pytest.raises(UserError, match=r"has sha256 .*, not "):
        unpack(archive, [member()], tmp_path / "out")


def test_a_missing_file_is_named(tmp_path):
    archive = zip_with(tmp_path / "a.zip", "package/other.txt")
    with pytest.raises(UserError, match=r"a\.zip: has no file 'package/data\.txt'\. .*fetch again"):
        unpack(archive, [member()], tmp_path / "out")


def test_a_tar_bomb_is_refused_before_it_is_unpacked(tmp_path):
    bomb = tarfile.TarInfo("zeros")
    bomb.size = MAX_SCANNED_BYTES + 1
    archive = tmp_path / "bomb.tar.gz"
    archive.write_bytes(gzip.compress(bomb.tobuf() + bytes(1024)))
    with pytest.raises(UserError, match=rf"unpacks to more than {MAX_SCANNED_BYTES} bytes"):
        unpack(archive, [member()], tmp_path / "out")


def test_a_zip_whose_header_lies_about_the_size_is_refused(tmp_path):
    archive = zip_with(tmp_path / "a.zip", "package/data.txt", bytes(1 << 20))
    real, lie = (1 << 20).to_bytes(4, "little"), len(CONTENT).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(real, lie))
    with pytest.raises(UserError, match=r"a\.zip"):
        unpack(archive, [member()], tmp_path / "out")
    assert (tmp_path / "out" / "data.txt").stat().st_size <= len(CONTENT)


def test_an_encrypted_zip_member_is_refused(tmp_path):
    archive = zip_with(tmp_path / "a.zip", "package/data.txt")
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        unpack(archive, [member()], tmp_path / "out")


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_an_archive_cut_short_anywhere_is_refused(tmp_path, suffix):
    content = bytes(range(256)) * 97
    if suffix == ".zip":
        whole = zip_with(tmp_path / "whole.zip", "package/data.txt", content)
    else:
        whole = tar_with(tmp_path / "whole.tar.gz", tar_info("package/data.txt"), content=content)
    raw = whole.read_bytes()
    for percent in range(0, 80, 7):
        cut = tmp_path / f"cut{percent}{suffix}"
        cut.write_bytes(raw[: len(raw) * percent // 100])
        with pytest.raises(UserError, match=f"cut{percent}"):
            unpack(cut, [member(content=content)], tmp_path / f"out{percent}")


def test_noise_is_no_archive(tmp_path):
    archive = tmp_path / "noise.whl"
    archive.write_bytes(hashlib.sha256(b"noise").digest() * 50)
    with pytest.raises(UserError, match=r"noise\.whl: isn't a whole zip, tar or ar archive"):
        unpack(archive, [member()], tmp_path / "out")


def ar_with(path: Path, *files: tuple[str, bytes]) -> Path:
    """As deb(5) has it: a header of 60 bytes a file, an even number of bytes each."""
    content = b"!<arch>\n"
    for name, data in files:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        content += header + data + b"\n" * (len(data) % 2)
    path.write_bytes(content)
    return path


def test_only_the_wanted_file_of_an_ar_is_written(tmp_path):
    files = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", CONTENT), ("other", b"x")]
    archive = ar_with(tmp_path / "a.deb", *files)
    unpack(archive, [member("data.tar.xz")], tmp_path / "out")
    assert (tmp_path / "out" / "data.txt").read_bytes() == CONTENT
    assert everything_in(tmp_path) == {"a.deb", "out", "out/data.txt"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("data.tar.xz", CONTENT + b"more")], r"'data\.tar\.xz' has 21 bytes or more, not 17"),
        ([("data.tar.xz", CONTENT.upper())], r"'data\.tar\.xz' has sha256"),
        ([("other", CONTENT)], r"has no file 'data\.tar\.xz'"),
    ],
)
def test_an_ar_with_other_bytes_is_refused(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        unpack(ar_with(tmp_path / "a.deb", *files), [member("data.tar.xz")], tmp_path / "out")


@pytest.mark.parametrize("kept", [8 + 59, 8 + 70])
def test_an_ar_cut_short_is_refused(tmp_path, kept):
    whole = ar_with(tmp_path / "a.deb", ("data.tar.xz", CONTENT)).read_bytes()
    (tmp_path / "cut.deb").write_bytes(whole[:kept])
    with pytest.raises(UserError, match=r"cut\.deb: "):
        unpack(tmp_path / "cut.deb", [member("data.tar.xz")], tmp_path / "out")
