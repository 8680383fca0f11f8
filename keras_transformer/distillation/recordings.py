"""What a teacher cache holds: a manifest, and parts in which an example's outputs are found by its key. numpy only."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from keras_transformer.checks import UserError
from keras_transformer.distillation.cache_parts import Part, PartWriter, RecordedOutput
from keras_transformer.distillation.example_keys import example_keys, is_sequence, row_lengths
from keras_transformer.files import ModelFileError, read_json, staged, write_json

if sys.platform != "win32":
    import fcntl

FORMAT = 1
MANIFEST, PARTS, PART, LOCK = "teacher_cache.json", "parts", "part_", ".recording"
SHOWN_VALUES = 6
ANOTHER = "Delete the folder to record anew, or give another folder."


@dataclass(frozen=True)
class Layout:
    """What was recorded of which teacher, and how an example is known. Two recordings mix only if theirs are equal."""

    teacher: str  # fingerprint
    taps: tuple[str, ...]
    top_k: int | None
    temperatures: tuple[float, ...]
    id_column: str | None
    inputs: tuple[str, ...]  # the entries of a batch's inputs that make the key, in this order
    length_input: str | None  # the one whose axis 1 is as long as the batch's texts; None = all have one length
    outputs: tuple[RecordedOutput, ...]


class Rows(NamedTuple):
    """Some examples with what the teacher says of them."""

    keys: np.ndarray  # (B,) S16
    lengths: np.ndarray  # (B,) tokens of each
    outputs: Mapping[str, np.ndarray]  # name -> (B, ...), padded to one length


class Recordings:
    """The parts of a cache in `folder`, whether the recording came to its end or not.

    Raises:
        ModelFileError: if the folder is no cache, or damaged; the message names the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_json(folder / MANIFEST)
        self.layout, self.complete = _layout_of(manifest, folder)
        self.parts = [Part(place, self.layout.outputs) for place in _part_folders(folder)]

    @classmethod
    @contextmanager
    def adding(cls, folder: Path, layout: Layout) -> Iterator["Recordings"]:
        """Open the recordings in `folder` to add to them, or start some there; meanwhile nobody else can.

        Raises:
            UserError: if the folder holds something else, or recordings of another layout: another teacher, say. If
                somebody else is recording into it, or it can't be written.
        """
        _refuse_foreign(folder)
        with _alone_in(folder):
            if (folder / MANIFEST).is_file():
                found = cls(folder)
                _check_same(folder, found.layout, layout)
            else:
                write_json(folder / MANIFEST, _manifest(layout, complete=False))
                found = cls(folder)
            for leftover in _leftovers(folder):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield found

    @property
    def rows(self) -> int:
        """How many examples are recorded."""
        return sum(part.rows for part in self.parts)

    def keys(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The key of each row of a batch: (B,) S16."""
        return example_keys([inputs[name] for name in self.layout.inputs])

    def lengths(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Tokens of each row of a batch, padding left out where it can be told: (B,) int64."""
        rows = len(next(iter(inputs.values())))
        name = self.layout.length_input
        if name is None:
            return np.zeros(rows, np.int64)
        length = inputs[name].shape[1]
        padded = [array for array in inputs.values() if is_sequence(array) and array.shape[1] == length]
        return np.max([row_lengths(array) for array in padded], axis=0) if padded else np.full(rows, length, np.int64)

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """Which keys aren't recorded: (B,) bool."""
        missing = np.ones(len(keys), bool)
        for part in self.parts:
            missing[missing] = part.find(keys[missing]) < 0
        return missing

    def read(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The recorded outputs of a batch in the layout's order: (B, ...), padded with zeros to the batch's length.

        Raises:
            UserError: if an example isn't recorded, or is longer there than in this batch.
        """
        keys = self.keys(inputs)
        name = self.layout.length_input
        length = inputs[name].shape[1] if name else 0
        arrays = [np.zeros((len(keys), *out.row_shape(length)), out.dtype) for out in self.layout.outputs]
        left = np.arange(len(keys))
        for part in self.parts:
            rows = part.find(keys[left])
            here = rows >= 0
            if here.any():
                self._check_lengths(part.lengths(rows[here]), left[here], length)
                for output, array in zip(self.layout.outputs, arrays, strict=True):
                    part.read(output, rows[here], left[here], array)
                left = left[~here]
            if not left.size:
                return arrays
        raise self._unknown_example(inputs, int(left[0]), len(keys))

    def add_part(self, rows: Iterator[Rows]) -> bool:
        """Write one part out of the next `rows`, as many as it takes; False = there was none left."""
        first = next(rows, None)
        if first is None:
            return False
        self._set_complete(False)
        (self.folder / PARTS).mkdir(exist_ok=True)
        # Not their number: a damaged one may have been deleted.
        number = 1 + max((int(path.name.removeprefix(PART)) for path in _part_folders(self.folder)), default=-1)
        target = self.folder / PARTS / f"{PART}{number:06d}"
        with staged(target) as staging:
            writer = PartWriter(staging, self.layout.outputs)
            try:
                writer.add(*first)
                while not writer.is_full() and (more := next(rows, None)) is not None:
                    writer.add(*more)
                writer.finish()
            finally:
                writer.close()
        self.parts.append(Part(target, self.layout.outputs))
        return True

    def end(self) -> None:
        """Say that every example of the data set is recorded."""
        self._set_complete(True)

    def _set_complete(self, complete: bool) -> None:
        if self.complete != complete:
            self.complete = complete
            write_json(self.folder / MANIFEST, _manifest(self.layout, complete))

    def _check_lengths(self, recorded: np.ndarray, places: np.ndarray, length: int) -> None:
        if self.layout.length_input is not None and recorded.size and recorded.max() > length:
            place = places[int(np.argmax(recorded))]
            raise UserError(
                f"{self.folder}: row {place} of the batch was recorded with {recorded.max()} tokens and the batch has "
                f"{length}. Cut the texts as they were when they were recorded, or record them anew in another folder."
            )

    def _unknown_example(self, inputs: Mapping[str, np.ndarray], row: int, rows: int) -> UserError:
        name = self.layout.inputs[0]
        shown = ", ".join(str(value) for value in np.ravel(inputs[name][row])[:SHOWN_VALUES])
        return UserError(
            f"{self.folder}: the teacher's outputs for row {row} (the first is 0) of a batch of {rows} aren't "
            f"recorded; its {name!r} begins with {shown}. The data set isn't the one that was recorded: call "
            "cache_teacher with it and this folder again, which adds what is missing."
        )


def _leftovers(folder: Path) -> list[Path]:
    """What a process that was killed while writing has left."""
    return [*folder.glob(f".{MANIFEST}.*.partial"), *(folder / PARTS).glob(f".{PART}*.partial")]


def _refuse_foreign(folder: Path) -> None:
    if (folder / MANIFEST).is_file() or not folder.exists():
        return
    if not folder.is_dir() or set(folder.iterdir()) - {*_leftovers(folder), folder / LOCK}:
        raise UserError(f"{folder}: is there already and is no teacher cache. Give a new or empty folder.")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which the system takes back from a killed process."""
    if sys.platform == "win32":  # no such locks: that only one records is left to the user
        yield
        return
    if folder.is_dir() and not os.access(folder, os.W_OK):  # a complete cache on a read-only disk; none can write
        yield
        return
    lock = folder / LOCK
    with _locked(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(lock: Path) -> BinaryIO:
    """Open and lock the file at `lock`; to close it gives the lock back."""
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("wb")
        except OSError as error:
            raise UserError(f"{lock.parent}: can't be written ({error.strerror}). Give another folder.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise UserError(_why_not_locked(lock.parent, error)) from error
        if _is_at(file.fileno(), lock):
            return file
        file.close()  # who held it has ended since, and has taken its file away


def _why_not_locked(folder: Path, error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return (
            f"{folder}: somebody else is recording into this folder, and two would destroy each other's parts. Wait "
            "until that recording has ended, and this call adds to it; or give another folder."
        )
    return f"{folder}: can't be locked against a second recording ({error.strerror}). Give a folder on a local disk."


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _part_folders(folder: Path) -> list[Path]:
    found = (folder / PARTS).glob(f"{PART}*")
    return sorted(path for path in found if path.is_dir() and path.name.removeprefix(PART).isdecimal())


def _manifest(layout: Layout, complete: bool) -> dict[str, Any]:
    return {"format": FORMAT, "complete": complete, "layout": asdict(layout)}


def _layout_of(manifest: Any, folder: Path) -> tuple[Layout, bool]:
    try:
        if manifest["format"] != FORMAT:
            raise ModelFileError(
                f"{folder}: is a teacher cache of format {manifest['format']}, and this version reads {FORMAT}. "
                f"{ANOTHER}"
            )
        entries = manifest["layout"]
        layout = Layout(
            teacher=entries["teacher"],
            taps=tuple(entries["taps"]),
            top_k=entries["top_k"],
            temperatures=tuple(entries["temperatures"]),
            id_column=entries["id_column"],
            inputs=tuple(entries["inputs"]),
            length_input=entries["length_input"],
            outputs=tuple(
                RecordedOutput(str(out["name"]), np.dtype(out["dtype"]).name, tuple(out["shape"]))
                for out in entries["outputs"]
            ),
        )
        return layout, bool(manifest["complete"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{folder / MANIFEST}: isn't the manifest of a teacher cache ({error}). Delete the folder and record anew."
        ) from error


def _check_same(folder: Path, old: Layout, new: Layout) -> None:
    if old.teacher != new.teacher:
        raise UserError(
            f"{folder}: was recorded from another teacher (fingerprint {old.teacher[:12]}, now {new.teacher[:12]}): "
            f"its weights or its config differ. {ANOTHER}"
        )
    for name, value in asdict(new).items():
        if asdict(old)[name] != value:
            raise UserError(f"{folder}: was recorded with {name}={asdict(old)[name]!r}, now {value!r}. {ANOTHER}")
