"""Texts of any length into rows of one length, for language models: no padding, and no token is lost."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_transformer.checks import positive_integer
from keras_transformer.data.epochs import Epochs, TokenRows


class Packed(NamedTuple):
    """Rows that a language model reads, and at each place the token that comes next."""

    token_ids: np.ndarray  # (R, T) int32
    labels: np.ndarray  # (R, T) int32, 0 = padding, in the last row alone


def pack(token_ids: Sequence[Sequence[int]], *, length: int, end_id: int) -> Packed:
    """Write texts one after another, `end_id` before each and after the last, and cut that into rows of `length`.

    So the first token of a text is predicted from the end of the one before. Every token of every text, and the end
    of each, is a label exactly once, also at a cut: a row begins with the last label of the row before. The last row
    is filled up with 0. A model sees over the ends of texts within a row, as it does in GPT-2's training.

    Args:
        token_ids: the ids of each text, without `end_id` at either end.
        length: T.
        end_id: the token between texts.

    Raises:
        ValueError: if there is no text, or one holds padding.
    """
    return _packed(_checked(token_ids), np.arange(len(token_ids)), length, end_id)


class PackedBatches(Epochs):
    """Batches of (token ids (B, T), labels (B, T)) int32 out of packed texts; labels are the ids moved left by one.

    Each epoch packs the texts in another order, which depends on (`seed`, epoch) alone; the number of rows, and so of
    batches, is the same in each. What `pack` says of cuts and of the last row holds. See `Batches` about resuming.

    Args:
        token_ids: the ids of each text, without `end_id` at either end.
        length: T.
        batch_size: rows a batch; the last batch of an epoch may have fewer.
        end_id: the token between texts.
        seed: of the order.
        shuffle: False keeps the texts and the rows in their order, for evaluation.

    Raises:
        ValueError: if there is no text, or one holds padding.
    """

    def __init__(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        length: int,
        batch_size: int,
        end_id: int,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        positive_integer("length", length)
        positive_integer("batch_size", batch_size)
        self.length, self.batch_size, self.end_id = length, batch_size, end_id
        self.seed, self.shuffle = seed, shuffle
        self._texts = _checked(token_ids)
        self.rows = -(-(len(self._texts.flat) + len(self._texts)) // length)

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the last, smaller one included."""
        return -(-self.rows // self.batch_size)

    def packed(self, epoch: int) -> Packed:
        """All rows of `epoch`, in the order of the texts in that epoch."""
        texts = np.arange(len(self._texts))
        if self.shuffle:
            texts = np.random.default_rng([self.seed, epoch]).permutation(texts)
        return _packed(self._texts, texts, self.length, self.end_id)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of `packed(epoch)` that each batch has, in order."""
        rows = np.arange(self.rows)
        if self.shuffle:
            rows = np.random.default_rng([self.seed, epoch, 1]).permutation(rows)
        return [rows[start : start + self.batch_size] for start in range(0, self.rows, self.batch_size)]

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of `epoch` without the first `skip`."""
        packed = self.packed(epoch)
        for rows in self.plan(epoch)[skip:]:
            yield packed.token_ids[rows], packed.labels[rows]

    def _signature(self) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        ids = tf.TensorSpec((None, self.length), tf.int32)
        return ids, ids


def _packed(texts: TokenRows, order: np.ndarray, length: int, end_id: int) -> Packed:
    positive_integer("length", length)
    stream = np.full(len(texts.flat) + len(texts) + 1, end_id, np.int32)
    place = 1
    for text in order:
        stream[place : place + texts.lengths[text]] = texts.row(text)
        place += int(texts.lengths[text]) + 1
    rows = -(-(len(stream) - 1) // length)
    filled = np.zeros(rows * length + 1, np.int32)
    filled[: len(stream)] = stream
    labels = filled[1:].reshape(rows, length)
    token_ids = np.where(labels == 0, 0, filled[:-1].reshape(rows, length))
    return Packed(token_ids, labels)


def _checked(token_ids: Sequence[Sequence[int]]) -> TokenRows:
    if not len(token_ids):
        raise ValueError("token_ids is empty: there is nothing to pack. Give at least one text.")
    texts = TokenRows(token_ids)
    if (texts.flat == 0).any():
        raise ValueError("token_ids holds 0, which is padding. Give the ids of each text as they are, not filled up.")
    return texts
