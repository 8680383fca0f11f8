"""Files that are whole or absent: written beside their place, renamed into it, checked by their sha256."""

import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keras_transformer.checks import UserError

HASH_CHUNK_BYTES = 1 << 20
SEAL = "sha256_of_the_rest"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h and linux/fs.h

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN_PLACE = {
    errno.EACCES,
    errno.EBUSY,  # a mount point
    errno.EEXIST,  # a file where a folder above the place should be
    errno.ENAMETOOLONG,
    errno.ENOENT,  # a file system that takes no new files, such as /proc
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


class ModelFileError(UserError):
    """A model file or folder that is missing, cut short, changed or not ours. The message names it."""


def ended_by_signal(what: str, returncode: int) -> ModelFileError:
    """The error for a model whose runtime took its process with it; `returncode` is minus the signal's number."""
    return ModelFileError(
        f"{what}: the process that ran it was ended by {signal.Signals(-returncode).name}. Write the file again; if it "
        "is large, free some memory."
    )


@contextmanager
def staged(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; write a file or a folder there and it becomes `path`, whole.

    The rename happens only when the body ends without an error. Until then an older `path` is untouched, and
    after an error nothing of the new one is left. A file replaces only a file, a folder only a folder.
    On Linux old and new folder change places in one step, so that a killed process leaves one of them at
    `path`; where the system has no such step, the old one is at `.NAME.*.old` for the moment between.

    Raises:
        UserError: if the disk is full, the place can't be written, or it holds the other kind of thing; the
            message names `path`.
    """
    target = Path(os.path.realpath(path))  # a link stays a link: what it points at is replaced
    if not target.name:
        raise UserError(f"{path}: is the root of the file system. Give a name below it.")
    staging = _sibling(target, "partial")
    new_folders = [folder for folder in target.parents if not os.path.lexists(folder)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield staging
        _refuse_other_kind(staging, target)
        _flush_to_disk(staging)
        _replace(staging, target)
    except OSError as error:
        explained = _explained(error, path, target, staging)
        if explained is None:
            raise
        raise explained from error
    finally:
        _remove(staging)
        for folder in new_folders:  # the deepest first; one that holds something stays
            with suppress(OSError):
                folder.rmdir()


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as UTF-8 JSON with a line a field; the file is whole or absent.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON can't hold.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with staged(path) as staging:
        # UTF-8 has no lone surrogates; backslashreplace writes one as its JSON escape, such as \ud800
        staging.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        ModelFileError: if it is missing or isn't JSON; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: there is no such file. Check the path.") from error
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read ({error.strerror}). Check the path.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: isn't readable JSON ({error}). Write it again with the command that made it."
        ) from error


def sha256(path: Path | str) -> str:
    """The sha256 of a file's bytes as 64 hexadecimal digits, read in pieces so that memory stays small."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with one more field, the sha256 of all the others, so that a change to any is noticed."""
    return {**content, SEAL: _digest_of_rest(content)}


def check_seal(content: Mapping[str, Any]) -> None:
    """Raise ValueError unless a JSON object has the sha256 of its other fields, as `sealed` gave it."""
    if content.get(SEAL) != _digest_of_rest(content):
        raise ValueError(f"{SEAL!r} doesn't fit, so a field was changed" if SEAL in content else f"{SEAL!r} is missing")


def size_on_disk(path: Path | str) -> int:
    """Bytes of a file, or of all files below a folder.

    Raises:
        ModelFileError: if there is nothing at `path`.
    """
    place = Path(path)
    if place.is_dir():
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    if not place.exists():
        raise ModelFileError(f"{path}: there is no such file or folder. Check the path.")
    return place.stat().st_size


def _digest_of_rest(content: Mapping[str, Any]) -> str:
    """The sha256 of the canonical JSON of all fields but the seal: sorted, ASCII, without spaces."""
    rest = {name: value for name, value in content.items() if name != SEAL}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _sibling(target: Path, suffix: str) -> Path:
    """A new hidden name beside `target`, cut so that it isn't too long where the target's name isn't."""
    return target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex[:8]}.{suffix}")


def _refuse_other_kind(staging: Path, target: Path) -> None:
    if target.exists() and target.is_dir() != staging.is_dir():
        here, new = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise UserError(f"{target}: is a {here}, and a {new} is to be written there. Give another name.")


def _flush_to_disk(staging: Path) -> None:
    """Put the bytes on the disk before the rename: after a power cut no name may lead to an empty file."""
    for file in [staging] if staging.is_file() else staging.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _replace(staging: Path, target: Path) -> None:
    if not target.is_dir():
        os.replace(staging, target)
    elif not _exchange(staging, target):  # after an exchange the old folder is at `staging`, which is removed
        _move_aside_and_replace(staging, target)


def _exchange(first: Path, second: Path) -> bool:
    """Swap what two names stand for in one step; False, and nothing done, where the system can't."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes  # costs every light command 10 ms, and only replacing a folder needs it

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:  # an older C library
        return False
    names = os.fsencode(first), os.fsencode(second)
    return renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def _move_aside_and_replace(staging: Path, target: Path) -> None:
    aside = _sibling(target, "old")
    os.rename(target, aside)
    try:
        os.rename(staging, target)
    except OSError:
        os.rename(aside, target)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # an error that is on its way already says what is wrong with the place
            path.unlink()


def _explained(error: OSError, path: Path | str, target: Path, staging: Path) -> UserError | None:
    """The user's side of an error about the place itself; None for one about some other file."""
    if error.errno in FULL_DISK:
        return UserError(f"{path}: the disk is full, nothing was written. Free some room or give another place.")
    if error.errno in FORBIDDEN_PLACE and _is_about(error, target, staging):
        return UserError(f"{path}: can't be written ({error.strerror}). Give a place that you may write to.")
    return None


def _is_about(error: OSError, target: Path, staging: Path) -> bool:
    """Whether an error's file is the place itself, beside or below it, or a folder above it."""
    if error.errno == errno.ENOENT:
        # Of what is missing, only what can't be made is the place's: a neighbour that isn't there is somebody's input,
        # and a rename without a source is a mistake of ours.
        made = error.filename2 is None and error.filename is not None
        return made and Path(os.path.abspath(error.filename)) in {staging, *target.parents}
    if error.filename is None:
        return True
    named = Path(os.path.realpath(error.filename))
    return target.parent in named.parents or named in target.parents
