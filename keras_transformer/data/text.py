"""Tables of text: CSV, TSV and JSON Lines with a header, read whole and checked row by row. Imports no TensorFlow."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.checks import UserError
from keras_transformer.data.well_formed import well_formed

SUFFIXES = (".csv", ".tsv", ".jsonl")
# Python's own limit is 131,072 characters, less than a long text has.
MAX_FIELD_CHARACTERS = 1 << 28


@dataclass(frozen=True)
class Table:
    """Texts, with one label each or with none at all (`labels` is None).

    Raises:
        ValueError: if there are more or fewer labels than texts.
    """

    texts: list[str]
    labels: list[str] | None

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.texts):
            raise ValueError(
                f"{len(self.texts)} texts have {len(self.labels)} labels: each needs one. Use labels=None for none."
            )

    def __len__(self) -> int:
        return len(self.texts)


def read_table(path: Path | str, text_column: str = "text", label_column: str | None = "label") -> Table:
    """Read a .csv, .tsv or .jsonl file whose first line names the columns (in JSON Lines every object does).

    UTF-8, with or without a byte order mark; any line ends; a quoted field may hold line ends. Other columns are
    skipped, and blank lines too. Spaces around a label are dropped.

    Args:
        path: the file.
        text_column: the column that holds the texts.
        label_column: the column that holds the labels; None = read the texts alone.

    Raises:
        UserError: if there is no such file, it is empty, of another kind, not UTF-8, lacks a column or names it
            twice, or a row has no text, no label, or another number of fields. The message names file, line and column.
    """
    if label_column is None:
        return Table([text for (text,) in _filled_rows(Path(path), [(text_column, "text")])], None)
    rows = _filled_rows(Path(path), [(text_column, "text"), (label_column, "label")])
    return Table([text for text, _ in rows], [label.strip() for _, label in rows])


@dataclass(frozen=True)
class Pairs:
    """Texts and what each is to become, for example its translation.

    Raises:
        ValueError: if there are more or fewer targets than sources.
    """

    sources: list[str]
    targets: list[str]

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.targets):
            raise ValueError(f"{len(self.sources)} sources have {len(self.targets)} targets: each needs one.")

    def __len__(self) -> int:
        return len(self.sources)


def read_pairs(path: Path | str, source_column: str = "source", target_column: str = "target") -> Pairs:
    """Read a .csv, .tsv or .jsonl file of pairs; what `read_table` says of files holds here too.

    Args:
        path: the file.
        source_column: the column that holds the texts to start from.
        target_column: the column that holds what they are to become.

    Raises:
        UserError: as `read_table`; also if both columns are one.
    """
    if source_column == target_column:
        raise UserError(f"source and target are both column {source_column!r}. Name two columns.")
    rows = _filled_rows(Path(path), [(source_column, "source"), (target_column, "target")])
    return Pairs([source for source, _ in rows], [target for _, target in rows])


def class_names(labels: Sequence[str]) -> list[str]:
    """The different labels, sorted: class i is the i-th of them.

    Raises:
        UserError: if there are fewer than two, since nothing could be learned.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        raise UserError(
            f"labels: all {len(labels)} rows are {names[0]!r}, and a classifier needs two classes. Add rows of another."
            if names
            else "labels: there are none, and a classifier needs two classes. Add labelled rows."
        )
    return names


def label_ids(labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """(N,) int32: the place of each label in `names`.

    Raises:
        UserError: if a label isn't among them: training never saw it. The message names the row (the first is 1).
    """
    ids = {name: index for index, name in enumerate(names)}
    for row, label in enumerate(labels, start=1):
        if label not in ids:
            nearest = get_close_matches(label, names, n=1)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else "Correct the row or train with such rows."
            raise UserError(f"row {row}: the label {label!r} is none of the trained ones {_listed(names)}. {hint}")
    return np.array([ids[label] for label in labels], np.int32)


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return f"[{shown}]" if len(names) <= most else f"[{shown}, and {len(names) - most} more]"


def _filled_rows(path: Path, roles: list[tuple[str, str]]) -> list[list[str]]:
    """The fields of each row, of the columns in `roles`, and what an error calls such a field."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: ends in {suffix!r}, not one of {', '.join(SUFFIXES)}. Rename or convert the file.")
    content, columns = _read_text(path), [column for column, _ in roles]
    if suffix == ".jsonl":
        rows = _json_rows(content, path, columns)
    else:
        rows = _delimited_rows(content, path, columns, "\t" if suffix == ".tsv" else ",")
    filled = [
        [_filled(field, path, line, name, role) for field, (name, role) in zip(fields, roles, strict=True)]
        for line, fields in rows
    ]
    if not filled:
        raise UserError(f"{path}: has no row below its header. Give at least one row.")
    return filled


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file. Check the path.") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}). Give a file that you may read.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte {error.start} (0x{content[error.start]:02x}) isn't UTF-8. Save it as UTF-8."
        ) from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty. Give a header and at least one row.")
    return text


def _delimited_rows(content: str, path: Path, columns: list[str], delimiter: str) -> Iterator[tuple[int, list[Any]]]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    before = csv.field_size_limit(MAX_FIELD_CHARACTERS)
    line = 1
    try:
        header = [name.strip() for name in next(row for row in reader if row)]
        places = _places(header, path, columns)
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path}, line {line}: has {len(row)} fields, but the header has {len(header)} columns. "
                    f'Put a text that holds {delimiter!r} between double quotes ("...").'
                )
            if row:
                yield line, [row[place] for place in places]
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: isn't readable ({error}). Check the double quotes from there on: each \" inside a "
            "quoted text is written twice."
        ) from error
    finally:
        csv.field_size_limit(before)


def _places(header: list[str], path: Path, columns: list[str]) -> list[int]:
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise UserError(f"{path}, line 1: the header names the column {twice[0]!r} twice. Rename one of them.")
    for column in columns:
        if column not in header:
            raise _missing_column(path, 1, column, header)
    return [header.index(column) for column in columns]


def _missing_column(path: Path, line: int, column: str, found: Sequence[str]) -> UserError:
    return UserError(
        f"{path}, line {line}: there is no column {column!r}; found {_listed(found)}. "
        "Rename it, or name the column to read (--text-column, --label-column, --source-column, --target-column)."
    )


def _json_rows(content: str, path: Path, columns: list[str]) -> Iterator[tuple[int, list[Any]]]:
    # Not splitlines: U+2028 and its kin may stand inside a JSON string.
    for line, text in enumerate(content.split("\n"), start=1):
        if not text.strip():
            continue
        try:
            pairs = json.loads(text, object_pairs_hook=_Pairs)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{path}, line {line}: isn't JSON ({error}). Write one object a line.") from error
        if not isinstance(pairs, _Pairs):
            raise UserError(
                f"{path}, line {line}: is {text.strip()[:40]}, not a JSON object. "
                f'Write {{"{columns[0]}": "..."}} on each line.'
            )
        names = [name for name, _ in pairs]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"{path}, line {line}: names the column {twice[0]!r} twice. Keep one of them.")
        values = dict(pairs)
        for column in columns:
            if column not in values:
                raise _missing_column(path, line, column, names)
        yield line, [values[column] for column in columns]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as pairs, so that a name that stands twice is seen."""


def _filled(value: Any, path: Path, line: int, column: str, role: str) -> str:
    if role == "label" and isinstance(value, int | float):
        value = json.dumps(value)  # 1 and true are labels too
    if value is not None and not isinstance(value, str):
        raise UserError(f"{path}, line {line}, column {column!r}: is {value!r:.60}, not a string. Put it in quotes.")
    if not value:
        raise UserError(f"{path}, line {line}, column {column!r}: the row has no {role}. Fill it in or drop the row.")
    if not value.strip():
        raise UserError(
            f"{path}, line {line}, column {column!r}: the {role} is only spaces. Fill it in or drop the row."
        )
    return well_formed(value)
