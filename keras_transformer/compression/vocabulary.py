"""Cut a vocabulary to the pieces that a domain uses; every dropped piece keeps a stand-in."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from keras_transformer.checks import positive_integer

SIMILARITY_ROWS = 4096  # rows compared at once, so that memory stays below 200 MB for 30,000 pieces


class CutVocabulary(NamedTuple):
    """Which rows of a token table stay, and which of them each token id takes."""

    kept: np.ndarray  # (K,) int32, ascending ids of the rows that stay
    piece_row: np.ndarray  # (V,) int32, the row among the K that each id takes


def count_pieces(token_ids: Iterable[Sequence[int]], vocab_size: int) -> np.ndarray:
    """How often each id occurs in a corpus of tokenised texts: (V,) int64."""
    counts = np.zeros(vocab_size, dtype="int64")
    for ids in token_ids:
        np.add.at(counts, np.asarray(ids, dtype="int64"), 1)
    return counts


def cut_vocabulary(
    table: np.ndarray, counts: np.ndarray, min_count: int = 1, always: Sequence[int] = ()
) -> CutVocabulary:
    """Keep the pieces that occur `min_count` times or more; send each other one to the most similar that stays.

    Similar is the cosine of the rows of `table`, usually the teacher's token embeddings: a word that the corpus never
    showed is then read as its nearest neighbour rather than as unknown.

    Args:
        table: (V, E) token embeddings.
        counts: (V,) how often each piece occurs, see `count_pieces`.
        min_count: a piece that occurs less often goes.
        always: ids that stay whatever their count: padding, unknown, the separators.

    Raises:
        ValueError: if `counts` doesn't have an entry a row, or nothing would stay.
    """
    positive_integer("min_count", min_count)
    if counts.shape != (len(table),):
        raise ValueError(
            f"counts of shape {counts.shape} don't fit a table of {len(table)} rows: one count a row. "
            "Use count_pieces(token_ids, vocab_size=len(table))."
        )
    stays = counts >= min_count
    stays[list(always)] = True
    kept = np.flatnonzero(stays).astype("int32")
    if not kept.size:
        raise ValueError(
            f"no piece occurs min_count={min_count} times, so no row would stay. Use a lower min_count, "
            f"at most {counts.max()}, or name ids in `always`."
        )
    piece_row = _nearest_rows(table, table[kept])
    piece_row[kept] = np.arange(len(kept), dtype="int32")
    return CutVocabulary(kept, piece_row)


def _nearest_rows(table: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Index of the candidate with the largest cosine for each row. A row of zeros takes the first candidate."""
    directions = _unit_rows(candidates).T  # (E, K)
    blocks = [
        (_unit_rows(table[start : start + SIMILARITY_ROWS]) @ directions).argmax(axis=1)
        for start in range(0, len(table), SIMILARITY_ROWS)
    ]
    return np.concatenate(blocks).astype("int32")


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
