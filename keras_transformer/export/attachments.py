"""What travels with an exported model: its tokenizer, the labels of a classifier, and its settings.

A SavedModel carries them as files in `assets.extra/`, the folder that TensorFlow Serving leaves to others. A `.tflite`
file carries them as a zip archive behind the flatbuffer: interpreters read from the front, archive tools from the end.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_transformer import files
from keras_transformer.checks import positive_integer
from keras_transformer.files import ModelFileError
from keras_transformer.tasks import CLASSIFY

FORMAT = 1
TOKENIZER, LABELS, SETTINGS = "tokenizer.json", "labels.json", "settings.json"
FOLDER = "assets.extra"
BESIDE = "beside"
"""In this field the settings record tokenizer and labels, as they do the model's files in `parts`."""

FLATBUFFER = "model.tflite"
"""Under this name the settings record the flatbuffer at the front of a `.tflite` file."""

MEMBER_BYTES = 64 << 20  # the longest attachment that is read
REPEATABLE = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that the same model gives the same bytes
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression or a zip version that a flipped bit made up
    OSError,  # an offset before the start of the file
    OverflowError,
    RuntimeError,  # an encrypted member
    ValueError,  # also text that isn't UTF-8
)
WRITE_AGAIN = "Write it again with `keras-transformer export`."
RESTORE = "Take it from a backup, or write it again with `keras-transformer export`."


@dataclass(frozen=True)
class Part:
    """A file, or the front of one, as it was written."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Settings:
    """What has to be known to use an exported model."""

    task: str  # one of `tasks.TASKS`
    format: str  # as in ExportReport
    max_length: int  # word pieces, those at the ends included; longer texts are cut; what is written counts too
    vocab_size: int  # token ids run from 0 to vocab_size - 1
    parameters: int
    version: str  # of keras_transformer
    parts: Mapping[str, Part]
    attachments_format: int = FORMAT


@dataclass(frozen=True)
class Attachments:
    """Tokenizer, labels and settings as they travel."""

    tokenizer_json: str
    labels: list[str]  # none but of a classifier
    settings: Settings


def append_to_file(path: Path, attachments: Attachments) -> None:
    """Put the attachments behind the flatbuffer in `path`; its bytes so far stay as they are."""
    _append(path, attachments)


def length_in_file(attachments: Attachments) -> int:
    """Return how many bytes `append_to_file` adds to a file."""
    archive = io.BytesIO()
    _append(archive, attachments)
    return len(archive.getvalue())


def read_from_file(path: Path) -> Attachments:
    """Read what travels in a `.tflite` file, and check that the flatbuffer has the bytes it was written with.

    Raises:
        ModelFileError: if the file carries no attachments, is cut short or was changed. The message names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            texts = {name: _read_member(archive, name) for name in (TOKENIZER, LABELS, SETTINGS)}
    except KeyError as error:
        raise ModelFileError(
            f"{path}: has no {error.args[0]} inside, so its labels or words aren't known. {WRITE_AGAIN}"
        ) from error
    except DAMAGED_ZIP as error:
        raise ModelFileError(
            f"{path}: can't be read as a .tflite file of ours ({error}): cut short, changed, or made by another "
            f"tool. {RESTORE}"
        ) from error
    attachments = _parse(texts, {name: f"{path} ({name} inside)" for name in texts})
    part = attachments.settings.parts.get(FLATBUFFER)
    if part is None or _front_sha256(path, part.bytes) != part.sha256:
        raise ModelFileError(f"{path}: its model isn't the one that was written: cut short or changed. {RESTORE}")
    return attachments


def write_to_folder(folder: Path, attachments: Attachments) -> None:
    """Write the attachments into `assets.extra/` of the SavedModel in `folder`."""
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    for name, text in _texts(attachments).items():
        (place / name).write_text(text, encoding="utf-8")


def read_from_folder(folder: Path) -> Attachments:
    """Read what travels with a SavedModel, and check each of its files.

    Raises:
        ModelFileError: if attachments or files are missing, cut short or changed. The message names the file.
    """
    texts = {}
    for name in (TOKENIZER, LABELS, SETTINGS):
        path = folder / FOLDER / name
        if not path.is_file() or path.stat().st_size > MEMBER_BYTES:
            raise ModelFileError(f"{folder}: has no usable {FOLDER}/{name} beside its graph. {WRITE_AGAIN}")
        texts[name] = _decode(path.read_bytes(), path)
    attachments = _parse(texts, {name: str(folder / FOLDER / name) for name in texts})
    for name, part in attachments.settings.parts.items():
        place = folder / name
        if not place.is_file() or part_of_file(place) != part:
            raise ModelFileError(f"{place}: is missing, cut short or changed. {RESTORE}")
    return attachments


def parts_of_folder(folder: Path) -> dict[str, Part]:
    """Record each file below `folder`, by its path from there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): part_of_file(path) for path in paths}


def part_of_file(path: Path) -> Part:
    """Record one file."""
    return Part(files.sha256(path), path.stat().st_size)


def _append(file: Path | io.BytesIO, attachments: Attachments) -> None:
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _texts(attachments).items():
            archive.writestr(zipfile.ZipInfo(name, REPEATABLE), text, zipfile.ZIP_DEFLATED)


def _texts(attachments: Attachments) -> dict[str, str]:
    texts = {TOKENIZER: attachments.tokenizer_json, LABELS: json.dumps(attachments.labels, ensure_ascii=False)}
    beside = {name: asdict(_part_of_text(text)) for name, text in texts.items()}
    settings = files.sealed({**asdict(attachments.settings), BESIDE: beside})
    return {**texts, SETTINGS: json.dumps(settings, indent=2)}


def _part_of_text(text: str) -> Part:
    content = text.encode("utf-8")
    return Part(hashlib.sha256(content).hexdigest(), len(content))


def _read_member(archive: zipfile.ZipFile, name: str) -> str:
    try:
        length = archive.getinfo(name).file_size
    except KeyError as error:
        raise KeyError(name) from error
    if length > MEMBER_BYTES:
        raise zipfile.BadZipFile(f"{name} claims {length} bytes, and the limit is {MEMBER_BYTES}")
    return archive.read(name).decode("utf-8")


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: isn't UTF-8 text ({error}). {WRITE_AGAIN}") from error


def _parse(texts: Mapping[str, str], places: Mapping[str, str]) -> Attachments:
    """Attachments out of their texts; `places` says for an error where each text stands."""
    with _refused(places[SETTINGS]):
        content = json.loads(texts[SETTINGS])
        settings = _parse_settings(content)
        beside = {name: _parse_part(content[BESIDE][name]) for name in (TOKENIZER, LABELS)}
        files.check_seal(content)
    for name, part in beside.items():
        if _part_of_text(texts[name]) != part:
            raise ModelFileError(f"{places[name]}: was cut short or changed since it was written. {RESTORE}")
    with _refused(places[LABELS]):
        labels = _parse_labels(json.loads(texts[LABELS]), settings.task)
    return Attachments(texts[TOKENIZER], labels, settings)


@contextmanager
def _refused(place: str) -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ModelFileError(f"{place}: isn't what we wrote ({reason}). {RESTORE}") from error


def _parse_labels(content: Any, task: str) -> list[str]:
    """Only a classifier has some."""
    if not isinstance(content, list) or not all(isinstance(label, str) for label in content):
        raise ValueError("labels must be a list of texts")
    if bool(content) != (task == CLASSIFY):
        raise ValueError(f"there are {len(content)} labels, and the task is {task!r}")
    return list(content)


def _parse_settings(content: dict[str, Any]) -> Settings:
    """Fields that a later version may add are passed over."""
    if content["attachments_format"] != FORMAT:
        raise ValueError(f"attachments_format is {content['attachments_format']!r}, and this version reads {FORMAT}")
    for name in ("max_length", "vocab_size"):
        positive_integer(name, content[name])
    return Settings(
        task=str(content["task"]),
        format=str(content["format"]),
        max_length=content["max_length"],
        vocab_size=content["vocab_size"],
        parameters=int(content["parameters"]),
        version=str(content["version"]),
        parts={_plain(name): _parse_part(part) for name, part in content["parts"].items()},
    )


def _parse_part(record: dict[str, Any]) -> Part:
    return Part(str(record["sha256"]), int(record["bytes"]))


def _plain(name: str) -> str:
    # A name out of a file becomes a path: it must stay in the folder.
    if name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name:
        raise ValueError(f"{name!r} isn't a name inside the folder")
    return name


def _front_sha256(path: Path, length: int) -> str:
    """The sha256 of the first `length` bytes, or of all there are if the file is shorter."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (chunk := file.read(min(files.HASH_CHUNK_BYTES, length))):
            digest.update(chunk)
            length -= len(chunk)
    return digest.hexdigest()
