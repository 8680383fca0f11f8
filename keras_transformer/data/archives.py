"""Take single files out of a zip, tar or ar archive, and refuse everything else that such an archive can do."""

import gzip
import hashlib
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from keras_transformer.checks import UserError

COPY_CHUNK_BYTES = 1 << 20
# A tar has no index: finding a member means unpacking all before it, which a bomb would make endless.
MAX_SCANNED_BYTES = 1 << 30
AR_START, AR_HEADER_BYTES = b"!<arch>\n", 60
BROKEN_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Member:
    """One file wanted from an archive: `path` in there, `name` out here, and what its bytes must be."""

    path: str
    name: str
    bytes: int
    sha256: str


def unpack(archive: Path, members: Iterable[Member], folder: Path) -> None:
    """Write `members` of a zip, tar or ar `archive` into `folder`; nothing else of the archive touches the disk.

    A member must be a plain file of the expected size and sha256. A link, a device, a folder, another size and a
    name that leads out of `folder` are refused; no mode, owner or link of the archive is taken over.

    Raises:
        UserError: if a member is refused or missing, or the archive is broken; the message names both.
    """
    wanted = list(members)
    places = {member.path: _inside(folder, member, archive) for member in wanted}
    folder.mkdir(parents=True, exist_ok=True)
    found = set()
    with _broken_means_user_error(archive):
        for member, stream in _streams(archive, {member.path: member for member in wanted}):
            _copy(stream, member, places[member.path], archive)
            found.add(member.path)
    for member in wanted:
        if member.path not in found:
            raise UserError(f"{archive.name}: has no file {member.path!r}. {_FETCH_AGAIN}")


_FETCH_AGAIN = "It isn't the package we know, so nothing of it is used: delete it and fetch again."


@contextmanager
def _broken_means_user_error(archive: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN_ARCHIVE_ERRORS as error:
        raise UserError(f"{archive.name}: isn't a whole zip, tar or ar archive ({error}). {_FETCH_AGAIN}") from error


def _streams(archive: Path, wanted: dict[str, Member]) -> Iterator[tuple[Member, IO[bytes]]]:
    if _is_ar(archive):
        yield from _ar_streams(archive, wanted)
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as package:
            yield from _zip_streams(package, wanted, archive)
    else:
        with tarfile.open(archive) as package:
            yield from _tar_streams(package, wanted, archive)


def _zip_streams(
    package: zipfile.ZipFile, wanted: dict[str, Member], archive: Path
) -> Iterator[tuple[Member, IO[bytes]]]:
    infos = {info.filename: info for info in package.infolist()}
    for member in wanted.values():
        info = infos.get(member.path)
        if info is None:
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG):
            raise _refused(archive, member, "is a folder, a link or a device, not a plain file")
        if info.flag_bits & 1:
            raise _refused(archive, member, "is encrypted")
        _check_size(info.file_size, member, archive)
        with package.open(info) as stream:
            yield member, stream


def _is_ar(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(len(AR_START)) == AR_START


def _ar_streams(archive: Path, wanted: dict[str, Member]) -> Iterator[tuple[Member, IO[bytes]]]:
    """Plain files only: deb(5) packages know nothing else."""
    with archive.open("rb") as file:
        file.seek(len(AR_START))
        while header := file.read(AR_HEADER_BYTES):
            if len(header) < AR_HEADER_BYTES or header[-2:] != b"`\n" or not header[48:58].strip().isdigit():
                raise EOFError("an ar header is broken")
            size, start = int(header[48:58]), file.tell()
            member = wanted.get(header[:16].decode("ascii", "replace").strip().removesuffix("/"))
            if member is not None:
                _check_size(size, member, archive)
                yield member, io.BytesIO(file.read(size))
            file.seek(start + size + size % 2)


def _tar_streams(
    package: tarfile.TarFile, wanted: dict[str, Member], archive: Path
) -> Iterator[tuple[Member, IO[bytes]]]:
    missing = dict(wanted)
    for info in package:
        member = missing.pop(info.name, None)
        if member is not None:
            stream = package.extractfile(info) if info.isreg() else None
            if stream is None:
                raise _refused(archive, member, "is a folder, a link or a device, not a plain file")
            _check_size(info.size, member, archive)
            yield member, stream
        if not missing:
            return
        if info.offset_data + info.size > MAX_SCANNED_BYTES:
            raise UserError(f"{archive.name}: unpacks to more than {MAX_SCANNED_BYTES} bytes. {_FETCH_AGAIN}")


def _copy(stream: IO[bytes], member: Member, place: Path, archive: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    digest, written = hashlib.sha256(), 0
    with place.open("xb") as file:
        while chunk := stream.read(COPY_CHUNK_BYTES):
            written += len(chunk)
            if written > member.bytes:  # the size in the header was a lie
                _check_size(written, member, archive)
            digest.update(chunk)
            file.write(chunk)
    _check_size(written, member, archive)
    if digest.hexdigest() != member.sha256:
        raise _refused(archive, member, f"has sha256 {digest.hexdigest()}, not {member.sha256}")


def _check_size(size: int, member: Member, archive: Path) -> None:
    if size != member.bytes:
        raise _refused(archive, member, f"has {size} bytes or more, not {member.bytes}")


def _inside(folder: Path, member: Member, archive: Path) -> Path:
    root = folder.resolve()
    place = (root / member.name).resolve()
    if place == root or root not in place.parents:
        raise _refused(archive, member, f"would be written to {place}, outside {root}")
    return place


def _refused(archive: Path, member: Member, reason: str) -> UserError:
    return UserError(f"{archive.name}: {member.path!r} {reason}. {_FETCH_AGAIN}")
