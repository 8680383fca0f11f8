"""What every way of making batches has in common: epochs that repeat themselves, and a place to resume at."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_transformer.checks import positive_integer


class Epochs(ABC):
    """Batches of which each epoch has the same number, in an order that depends on (seed, epoch) alone."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the last, smaller one included."""

    @abstractmethod
    def batches(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """The batches of `epoch` without the first `skip`."""

    def dataset(self, first_epoch: int = 0, epochs: int = 1, skip: int = 0) -> tf.data.Dataset:
        """`epochs` epochs from `first_epoch` on, without their first `skip` batches: those a killed run has had.

        Raises:
            ValueError: if `skip` leaves nothing.
        """
        positive_integer("epochs", epochs)
        steps = epochs * self.steps_per_epoch - skip
        if skip < 0 or steps <= 0:
            raise ValueError(
                f"skip={skip} must be at least 0 and below the {epochs * self.steps_per_epoch} batches of {epochs} "
                "epochs. Use a smaller skip or more epochs."
            )

        def generate() -> Iterator[Any]:
            skipped_epochs, skipped_batches = divmod(skip, self.steps_per_epoch)
            for epoch in range(first_epoch + skipped_epochs, first_epoch + epochs):
                yield from self.batches(epoch, skipped_batches)
                skipped_batches = 0

        dataset = tf.data.Dataset.from_generator(generate, output_signature=self._signature())
        return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)

    @abstractmethod
    def _signature(self) -> Any:
        """The specification of what `batches` gives."""


class TokenRows:
    """Rows of token ids of any lengths, in one flat array: a Python list a text would take ten times the memory.

    Args:
        token_ids: the ids of each row.
    """

    def __init__(self, token_ids: Sequence[Sequence[int]]) -> None:
        self.lengths = np.array([len(ids) for ids in token_ids], np.int64)
        self.flat = np.fromiter((index for ids in token_ids for index in ids), np.int32, int(self.lengths.sum()))
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.longest = max(int(self.lengths.max(initial=0)), 1)

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, row: int) -> np.ndarray:
        """The ids of one row, (length,) int32."""
        return self.flat[self.starts[row] : self.starts[row + 1]]

    def padded(self, rows: np.ndarray, length_multiple: int) -> np.ndarray:
        """(B, T) int32 filled up with 0.

        T is the longest of `rows` rounded up to a multiple of `length_multiple`, but at most the longest of all.
        """
        longest = max(int(self.lengths[rows].max()), 1)
        token_ids = np.zeros((len(rows), min(rounded_up(longest, length_multiple), self.longest)), np.int32)
        for place, row in enumerate(rows):
            token_ids[place, : self.lengths[row]] = self.row(row)
        return token_ids


def rounded_up(length: Any, multiple: int) -> Any:
    """The smallest multiple of `multiple` that is at least `length`; numbers or arrays of them."""
    return -(-length // multiple) * multiple
