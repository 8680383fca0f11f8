"""Any text data set of tfds as a Table."""

from typing import Any

import tensorflow_datasets as tfds

from keras_transformer.checks import UserError
from keras_transformer.data.text import Table


def from_tfds(
    name: str, split: str, text_key: str = "text", label_key: str | None = "label", **load_options: Any
) -> Table:
    """Read a split of a tfds data set, for example `from_tfds("imdb_reviews", "train")`, in its stored order.

    Args:
        name: what `tfds.load` takes.
        split: what `tfds.load` takes, such as "train[:10%]".
        text_key: the feature with the texts (UTF-8; broken bytes become U+FFFD).
        label_key: the feature with the class; a ClassLabel gives its names. None, or -1 in every row = no labels.
        **load_options: go to `tfds.load` unread, for example `data_dir`, `download=False`.

    Raises:
        UserError: if a feature is missing, or some rows have a label and others don't.
    """
    dataset, info = tfds.load(name, split=split, with_info=True, shuffle_files=False, **load_options)
    keys = [text_key] if label_key is None else [text_key, label_key]
    for key in keys:
        if key not in info.features:
            raise UserError(f"{name}: has no feature {key!r}; found {sorted(info.features)}. Name one of these.")
    rows = list(tfds.as_numpy(dataset))
    texts = [row[text_key].decode("utf-8", "replace") for row in rows]
    if label_key is None:
        return Table(texts, None)
    labels = [_label(row[label_key], info.features[label_key]) for row in rows]
    named = [label for label in labels if label is not None]
    if not named:
        return Table(texts, None)
    if len(named) < len(labels):
        row = labels.index(None)
        raise UserError(
            f"{name}, split {split!r}, row {row + 1}: has no label, while {len(named)} rows have one. "
            "Read the unlabelled rows apart, with label_key=None."
        )
    return Table(texts, named)


def _label(value: Any, feature: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None
    return str(value)
