"""The files of a teacher cache: parts that are whole or absent, read through memory maps. numpy only, no pickle.

A part is a folder with `part.json` (the size and sha256 of each file) and

    index.npy      (N,) S24, sorted: an example's key, then its row as 8 big-endian bytes
    lengths.npy    (N,) int64: tokens of each row
    starts_1.npy   (N + 1,) int64: sum of the lengths before each row; starts_2.npy the same of their squares
    output_0.bin   the values of the first recorded output, row after row, little-endian; and so on

An output's row has shape such as (None, 384): None is the token axis, which is stored without padding.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from keras_transformer.distillation.example_keys import KEY_BYTES
from keras_transformer.files import ModelFileError, read_json, sha256, write_json

PART_BYTES, PART_ROWS, PART_SECONDS = 1 << 30, 1 << 20, 600.0
"""When a part is closed: memory is bounded by its rows, and what a killed process loses by its seconds."""
ROW_BYTES = 8


@dataclass(frozen=True)
class RecordedOutput:
    """One output of the teacher as it is stored."""

    name: str  # its key in a batch's inputs
    dtype: str  # a numpy dtype: "float32", "float16", "int32" or "bool"
    shape: tuple[int | None, ...]  # of one row; None = the token axis

    @property
    def token_axes(self) -> int:
        """How many axes have the length of the text."""
        return sum(size is None for size in self.shape)

    def row_shape(self, length: int) -> tuple[int, ...]:
        """The shape of a row of `length` tokens."""
        return tuple(length if size is None else size for size in self.shape)


class PartWriter:
    """Writes one part into a folder that `files.staged` gave; `finish` makes it whole."""

    def __init__(self, folder: Path, outputs: Sequence[RecordedOutput]) -> None:
        folder.mkdir()
        self.folder, self.outputs = folder, tuple(outputs)
        self.files: list[BinaryIO] = [(folder / f"output_{place}.bin").open("wb") for place in range(len(outputs))]
        self.keys: list[np.ndarray] = []
        self.lengths: list[np.ndarray] = []
        self.rows, self.bytes, self.began = 0, 0, time.monotonic()

    def add(self, keys: np.ndarray, lengths: np.ndarray, arrays: Mapping[str, np.ndarray]) -> None:
        """Append rows.

        Args:
            keys: (B,) S16.
            lengths: (B,) tokens of each row.
            arrays: of each output its values (B, ...), token axes padded to one length.
        """
        self.keys.append(keys)
        self.lengths.append(np.asarray(lengths, np.int64))
        self.rows += len(keys)
        for output, file in zip(self.outputs, self.files, strict=True):
            values = np.asarray(arrays[output.name], np.dtype(output.dtype).newbyteorder("<"))
            if not output.token_axes:
                self.bytes += file.write(np.ascontiguousarray(values).tobytes())
                continue
            for row, length in enumerate(lengths):
                part = values[row][tuple(slice(length if size is None else None) for size in output.shape)]
                self.bytes += file.write(np.ascontiguousarray(part).tobytes())

    def is_full(self) -> bool:
        """Whether the part is large or old enough to be closed."""
        old = time.monotonic() - self.began >= PART_SECONDS
        return old or self.rows >= PART_ROWS or self.bytes >= PART_BYTES

    def finish(self) -> None:
        """Write the index and what proves that the part is whole."""
        self.close()
        keys, lengths = np.concatenate(self.keys), np.concatenate(self.lengths)
        rows = np.arange(len(keys)).astype(f">u{ROW_BYTES}")
        joined = np.concatenate([_bytes_of(keys), _bytes_of(rows)], axis=1)
        np.save(self.folder / "index.npy", np.sort(joined.view(f"S{KEY_BYTES + ROW_BYTES}")[:, 0]), allow_pickle=False)
        np.save(self.folder / "lengths.npy", lengths, allow_pickle=False)
        for axes in {output.token_axes for output in self.outputs} - {0}:
            starts = np.concatenate([[0], np.cumsum(lengths**axes)])
            np.save(self.folder / f"starts_{axes}.npy", starts, allow_pickle=False)
        written = {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(self.folder.iterdir())
        }
        write_json(self.folder / "part.json", {"rows": len(keys), "files": written})

    def close(self) -> None:
        """Close the files; what was written stays."""
        for file in self.files:
            file.close()


class Part:
    """Rows that were written by a `PartWriter`.

    Raises:
        ModelFileError: if a file is missing, cut short or changed; the message names it.
    """

    def __init__(self, folder: Path, outputs: Sequence[RecordedOutput]) -> None:
        self.rows = _check_files(folder)
        self._index = _load(folder / "index.npy")
        self._lengths = _load(folder / "lengths.npy")
        self._starts = {
            axes: _load(folder / f"starts_{axes}.npy") for axes in {out.token_axes for out in outputs} - {0}
        }
        self._values = {
            output.name: _map(folder / f"output_{place}.bin", output.dtype) for place, output in enumerate(outputs)
        }

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key (B,) S16, or -1 where this part doesn't have it: (B,) int64."""
        wanted = keys.astype(self._index.dtype)  # a key and no row: just before any entry of that key
        places = np.minimum(np.searchsorted(self._index, wanted), self.rows - 1)
        found = _bytes_of(self._index[places])
        same = (found[:, :KEY_BYTES] == _bytes_of(wanted)[:, :KEY_BYTES]).all(axis=1)
        rows = found[:, KEY_BYTES:].copy().view(f">u{ROW_BYTES}")[:, 0].astype(np.int64)
        return np.where(same, rows, -1)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of each of these rows."""
        return self._lengths[rows]

    def read(self, output: RecordedOutput, rows: np.ndarray, places: np.ndarray, target: np.ndarray) -> None:
        """Put an output's values of `rows` into `target[places]`; what is behind a row's end there stays."""
        values, axes = self._values[output.name], output.token_axes
        if not axes:
            target[places] = values.reshape(self.rows, *output.shape)[rows]
            return
        inner = int(np.prod([size for size in output.shape if size is not None], dtype=np.int64))
        for row, place in zip(rows, places, strict=True):
            length = int(self._lengths[row])
            start, stop = (int(end) * inner for end in self._starts[axes][row : row + 2])
            corner = tuple(slice(length if size is None else None) for size in output.shape)
            target[place][corner] = values[start:stop].reshape(output.row_shape(length))


def _check_files(folder: Path) -> int:
    description = read_json(folder / "part.json")
    try:
        rows, files = int(description["rows"]), dict(description["files"])
        expected = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, "part.json", f"has no {error}") from error
    for name, (size, digest) in expected.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise _damaged(folder, name, "is missing")
        if file.stat().st_size != size:
            raise _damaged(folder, name, f"has {file.stat().st_size} bytes where {size} were written")
        if sha256(file) != digest:
            raise _damaged(folder, name, "isn't what was written: its sha256 differs")
    return rows


def _damaged(folder: Path, name: str, reason: str) -> ModelFileError:
    return ModelFileError(
        f"{folder / name}: the teacher cache is damaged, the file {reason}. Delete the folder {folder} and call "
        "cache_teacher again: it records what is missing."
    )


def _load(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise _damaged(path.parent, path.name, f"can't be read ({error})") from error


def _map(path: Path, dtype: str) -> np.ndarray:
    kind = np.dtype(dtype).newbyteorder("<")
    if not path.is_file():
        raise _damaged(path.parent, path.name, "is missing")
    if not path.stat().st_size:  # nothing to map: texts without a token
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, kind, mode="r"))


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """(N,) of k bytes each -> (N, k) uint8."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), array.dtype.itemsize)
