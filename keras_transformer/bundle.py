"""The run folder that every command reads and writes: model, tokenizer, labels, manifest and report.

A bundle is a folder with `model.keras`, `tokenizer.json`, `labels.json` (of a classifier), `examples.json` (texts on
which exports are compared), `report.json`, and `manifest.json` with the sha256 of each and of itself.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from keras_transformer import files
from keras_transformer.checks import UserError, positive_integer
from keras_transformer.files import ModelFileError
from keras_transformer.tasks import CLASSIFY
from keras_transformer.version import __version__

if TYPE_CHECKING:
    import keras

    from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
    from keras_transformer.data.tokenizer import WordPiece

FORMAT = 1
MANIFEST = "manifest.json"
MODEL, TOKENIZER, LABELS = "model.keras", "tokenizer.json", "labels.json"
EXAMPLES, REPORT = "examples.json", "report.json"
REQUIRED = (MODEL, TOKENIZER, EXAMPLES, REPORT)  # and LABELS, of a classifier
PROOF_ROWS, PROOF_LENGTH = 3, 32  # of token ids, with which a model that was just written is compared
PROOF_TOLERANCE = 1e-6  # of the largest logit, or of 1
SMALL_FILE_BYTES = 64 << 20  # the most that any file but the model may have
MOST_EXAMPLES = 200
WHAT_TO_GIVE = "Give a folder written by `keras-transformer train` or `distill`."


class SavesItself(Protocol):
    """A `keras.Model`, or what stands in for one in a test."""

    def save(self, filepath: Path) -> None:
        """Write a `.keras` file."""

    def count_params(self) -> int:
        """Return the number of weights."""


class WritesJson(Protocol):
    """A tokenizer, which can be written as one JSON text."""

    def to_json(self) -> str:
        """Return all there is to know about it."""


@dataclass(frozen=True)
class FileRecord:
    """What the manifest knows about one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself in `manifest.json`."""

    format: int
    task: str
    max_length: int  # in word pieces, those at the ends included; of source and target each, where there are two
    parameters: int
    created: str  # ISO 8601, UTC
    command: str
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    files: Mapping[str, FileRecord]


@dataclass(frozen=True)
class BundleInfo:
    """All of a bundle that can be known without TensorFlow."""

    folder: Path
    manifest: Manifest
    labels: list[str]  # none but of a classifier
    examples: list[str]

    @property
    def bytes(self) -> int:
        """Size of `model.keras`."""
        return self.manifest.files[MODEL].bytes


@dataclass(frozen=True)
class Bundle:
    """A bundle that was loaded: the Keras model with what belongs to it."""

    folder: Path
    model: "keras.Model"
    tokenizer: "WordPiece | ReversibleTokenizer"
    labels: list[str]
    examples: list[str]
    manifest: Manifest


def save(
    folder: Path | str,
    *,
    model: SavesItself,
    tokenizer: WritesJson,
    labels: Sequence[str] = (),
    task: str,
    max_length: int,
    metrics: Mapping[str, float],
    command: str,
    report: Mapping[str, Any] | None = None,
    examples: Sequence[str] = (),
) -> Manifest:
    """Write a bundle, whole or not at all; an older bundle at `folder` is replaced in one step.

    Before it is in place, the written model is loaded again and must give the same logits on a few rows of token ids.

    Args:
        folder: where it goes; must be new, empty or an older bundle.
        model: what `model.keras` holds.
        tokenizer: what turns texts into the model's token ids.
        labels: name of each class, in the order of the model's logits; none but of a classifier.
        task: one of `tasks.TASKS`.
        max_length: longest input in word pieces.
        metrics: what was measured on held-out data.
        command: what to type to make it again; error messages quote it.
        report: anything else worth keeping, written as `report.json`.
        examples: texts like those that the model will see; the first 200 are kept, to compare exports on.

    Raises:
        ModelFileError: if the written model can't be loaded again. Nothing is left in place then.
        ParityError: if the written model gives other logits. Nothing is left in place then either.
        UserError: if `folder` holds other things, or can't be written.
        ValueError: for labels that aren't distinct texts or belong to no classifier, a `max_length` beyond the
            model's, or a number that JSON can't hold.
    """
    positive_integer("max_length", max_length)
    if max_length > _positions(model, max_length):
        raise ValueError(
            f"max_length={max_length} is more than the {_positions(model, max_length)} positions that the model has. "
            f"Use max_length={_positions(model, max_length)} or less."
        )
    _check_labels(labels, task)
    refuse_foreign_folder(folder)
    with files.staged(folder) as staging:
        staging.mkdir()
        model.save(staging / MODEL)
        (staging / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
        _prove(model, staging, max_length, folder)
        if labels:
            files.write_json(staging / LABELS, list(labels))
        files.write_json(staging / EXAMPLES, list(examples[:MOST_EXAMPLES]))
        files.write_json(staging / REPORT, dict(report or {}))
        manifest = Manifest(
            format=FORMAT,
            task=task,
            max_length=int(max_length),
            parameters=int(model.count_params()),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            metrics=dict(metrics),
            versions=versions(),
            files={name: _record(staging / name) for name in _required(task)},
        )
        files.write_json(staging / MANIFEST, files.sealed(asdict(manifest)))
    return manifest


def read(folder: Path | str) -> BundleInfo:
    """Read all of a bundle but its model and tokenizer, without TensorFlow and without hashing the model.

    Raises:
        ModelFileError: if `folder` is no bundle, or a file is missing or of another length than it had.
    """
    place = Path(folder)
    manifest = _read_manifest(place)
    for name, record in manifest.files.items():
        _check_length(place / name, record, manifest)
        if name != MODEL:
            _check_small(place / name)
    labels = _read_texts(place / LABELS, manifest) if LABELS in manifest.files else []
    return BundleInfo(place, manifest, labels, _read_texts(place / EXAMPLES, manifest))


def load(folder: Path | str, task: str | None = None) -> Bundle:
    """Load a bundle after checking the sha256 of each of its files.

    Args:
        folder: a folder written by `save`.
        task: what the bundle must have been trained for; None = any task.

    Raises:
        ModelFileError: if it is no bundle, of another task, its parts don't belong together, or a file is missing,
            damaged or not ours.
    """
    info = read(folder)
    _check_task(info, task)
    for name, record in info.manifest.files.items():
        if files.sha256(info.folder / name) != record.sha256:
            raise _damaged(info.folder / name, "has other bytes than when it was written", info.manifest)
    from keras_transformer.data.saved_tokenizers import tokenizer_from_json
    from keras_transformer.model_file import load_model

    model = load_model(info.folder / MODEL)
    tokenizer = tokenizer_from_json((info.folder / TOKENIZER).read_text(encoding="utf-8"))
    classes = model.output_shape[-1]
    named, by = (len(info.labels), LABELS) if info.labels else (tokenizer.vocab_size, TOKENIZER)
    if classes != named:
        raise ModelFileError(
            f"{info.folder}: the model tells {classes} classes apart, and {by} names {named}. "
            f"Make the bundle again: {info.manifest.command}"
        )
    longest = _positions(model, info.manifest.max_length)
    if info.manifest.max_length > longest:
        raise ModelFileError(
            f"{info.folder / MANIFEST}: says max_length {info.manifest.max_length}, and the model has {longest} "
            f"positions. Make the bundle again: {info.manifest.command}"
        )
    return Bundle(info.folder, model, tokenizer, info.labels, info.examples, info.manifest)


def refuse_foreign_folder(folder: Path | str) -> None:
    """Raise UserError if saving a bundle at `folder` would remove anything but an older bundle.

    Long jobs call it before they start.
    """
    place = Path(folder)
    if not place.exists():
        return
    if not place.is_dir():
        raise UserError(f"{folder}: is a file, and a bundle is a folder. Give another place.")
    foreign = sorted({entry.name for entry in place.iterdir()} - {*REQUIRED, LABELS, MANIFEST})
    if foreign:
        named = ", ".join(foreign[:3]) + (" and more" if len(foreign) > 3 else "")
        raise UserError(
            f"{folder}: holds {named}, which saving a bundle there would remove. "
            "Give a new or empty folder, or move that away."
        )


def versions() -> dict[str, str]:
    """Versions of what made a file; "none" for what isn't installed. Imports none of it."""
    installed = {"keras_transformer": __version__}
    for name in ("keras", "tensorflow", "numpy"):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "none"
    return installed


def _prove(model: SavesItself, staging: Path, max_length: int, folder: Path | str) -> None:
    """Load the written model and compare it with `model`, both in float32, on rows of ids drawn from all there are.

    In bfloat16 a difference of 1e-6 would drown in rounding; the weights of a mixed policy are float32 anyway.
    """
    import numpy as np

    from keras_transformer.data.saved_tokenizers import tokenizer_from_json
    from keras_transformer.export.keras_runner import in_float32, input_length
    from keras_transformer.export.parity import compare, require_logits
    from keras_transformer.model_file import load_model

    try:
        written = load_model(staging / MODEL)
        tokenizer = tokenizer_from_json((staging / TOKENIZER).read_text(encoding="utf-8"))
    except ModelFileError as error:
        reason = str(error).replace(str(staging), str(folder))
        raise ModelFileError(f"Nothing was written, since it couldn't be loaded again. {reason}") from error
    names = [tensor.name for tensor in written.inputs or []]
    length = (None if len(names) > 1 else input_length(written)) or min(max_length, PROOF_LENGTH)
    vocab_size = getattr(written, "vocab_size", None) or tokenizer.vocab_size
    token_ids = np.random.default_rng(0).integers(1, vocab_size, (PROOF_ROWS, length), dtype="int32")
    token_ids[0, length // 2 + 1 :] = tokenizer.pad_id
    rows = dict.fromkeys(names, token_ids) if len(names) > 1 else token_ids
    logits = [np.asarray(in_float32(one)(rows, training=False)) for one in (model, written)]
    before, after = (one.reshape(PROOF_ROWS, -1) for one in logits)  # (3, C), or (3, T * V)
    tolerance = PROOF_TOLERANCE * max(1.0, float(np.abs(before).max()))
    fix = "A layer's get_config or its saving leaves something out: mend it, or build the model of layers of ours."
    require_logits(compare(before, after), tolerance, Path(folder) / MODEL, fix)


def _positions(model: object, otherwise: int) -> int:
    """The most ids in a row that the model takes; `otherwise` where it doesn't say."""
    return getattr(model, "max_length", None) or otherwise


def _record(path: Path) -> FileRecord:
    return FileRecord(files.sha256(path), path.stat().st_size)


def _required(task: str) -> tuple[str, ...]:
    """The files that a bundle of this task has."""
    return (*REQUIRED, LABELS) if task == CLASSIFY else REQUIRED


def _check_labels(labels: Sequence[str], task: str) -> None:
    if task != CLASSIFY:
        if labels:
            raise ValueError(f"labels={list(labels)!r}: only a classifier has some, and task={task!r}. Leave them out.")
        return
    texts = [label for label in labels if isinstance(label, str) and label]
    if len(labels) < 2 or len(set(texts)) < len(labels):
        raise ValueError(
            f"labels={list(labels)!r} must be at least two distinct, non-empty texts. Use for example "
            "labels=['negative', 'positive']."
        )


def _read_manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise ModelFileError(f"{folder}: there is no such folder. {WHAT_TO_GIVE}")
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelFileError(f"{folder}: is no bundle, it has no {MANIFEST}. {WHAT_TO_GIVE}")
    _check_small(path)
    content = files.read_json(path)
    try:
        manifest = _parse_manifest(content)
        files.check_seal(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ModelFileError(
            f"{path}: isn't a manifest of ours ({reason}). Take it from a backup, or make the bundle again."
        ) from error
    return manifest


def _parse_manifest(content: dict[str, Any]) -> Manifest:
    """Fields that a later version may add are passed over."""
    if content["format"] != FORMAT:
        raise ValueError(f"format is {content['format']!r}, and keras_transformer {__version__} reads {FORMAT}")
    records = {str(name): _parse_record(name, record) for name, record in content["files"].items()}
    missing = sorted(set(_required(str(content["task"]))) - set(records))
    if missing:
        raise ValueError(f"'files' doesn't list {missing[0]}")
    positive_integer("max_length", content["max_length"])
    return Manifest(
        format=FORMAT,
        task=str(content["task"]),
        max_length=content["max_length"],
        parameters=int(content["parameters"]),
        created=str(content["created"]),
        command=str(content["command"]),
        metrics=dict(content["metrics"]),
        versions=dict(content["versions"]),
        files=records,
    )


def _parse_record(name: str, record: dict[str, Any]) -> FileRecord:
    # A name out of a manifest becomes a path: it must stay in the folder.
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name):
        raise ValueError(f"{name!r} is no plain file name")
    return FileRecord(str(record["sha256"]), int(record["bytes"]))


def _check_length(path: Path, record: FileRecord, manifest: Manifest) -> None:
    if not path.is_file():
        raise _damaged(path, "is missing", manifest)
    length = path.stat().st_size
    if length != record.bytes:
        raise _damaged(path, f"has {length} bytes, and it was written with {record.bytes}", manifest)


def _damaged(path: Path, what: str, manifest: Manifest) -> ModelFileError:
    return ModelFileError(f"{path}: {what}. Take it from a backup, or make the bundle again: {manifest.command}")


def _check_small(path: Path) -> None:
    length = path.stat().st_size
    if length > SMALL_FILE_BYTES:
        raise ModelFileError(
            f"{path}: has {length} bytes, and the limit is {SMALL_FILE_BYTES}. Give a bundle that we wrote."
        )


def _read_texts(path: Path, manifest: Manifest) -> list[str]:
    content = files.read_json(path)
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        raise _damaged(path, "must be a JSON list of texts", manifest)
    return content


def _check_task(info: BundleInfo, task: str | None) -> None:
    if task is not None and info.manifest.task != task:
        raise ModelFileError(
            f"{info.folder}: was trained for {info.manifest.task!r}, and {task!r} is needed here. "
            f"Give a bundle made by `keras-transformer train {task}`."
        )
