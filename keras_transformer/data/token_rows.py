"""What each tokenizer does at its ends: refuse what is no list of texts, and fill rows of ids up. No TensorFlow."""

from collections.abc import Sequence

import numpy as np


def check_texts(texts: Sequence[str]) -> None:
    """Raise TypeError unless `texts` is a list of strings: one string would be read letter by letter."""
    if isinstance(texts, str):
        raise TypeError(f"texts={texts[:40]!r} is one string: a list of texts is needed. Use [text].")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{row}]={text!r} is no string. Give each text as a str.")


def padded(token_ids: Sequence[Sequence[int]], length: int | None = None, pad_id: int = 0) -> np.ndarray:
    """(B, T) int32 with each row filled up with `pad_id`; T = `length`, or that of the longest row.

    Raises:
        ValueError: if a row is longer than `length`.
    """
    longest = max((len(row) for row in token_ids), default=0)
    if length is not None and longest > length:
        raise ValueError(f"length={length} is too short for a row of {longest} ids. Use length={longest} or more.")
    rows = np.full((len(token_ids), longest if length is None else length), pad_id, np.int32)
    for row, ids in enumerate(token_ids):
        rows[row, : len(ids)] = ids
    return rows
