"""Token ids into batches for `fit`: shuffled, bucketed by length, the same again for one seed, resumable."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_transformer.checks import positive_integer
from keras_transformer.data.epochs import Epochs, TokenRows

UNLABELLED = -1
# Texts are sorted by length within this many batches: enough to save most padding, and batches stay varied.
CHUNK_BATCHES = 64


class Batches(Epochs):
    """A data set of token ids in batches of ({"token_ids": (B, T), **extras}, labels (B,)).

    Which texts make a batch depends on (`seed`, epoch) alone: a run that starts at epoch 3 after skipping 5 batches
    sees what a run from the start would have seen there. An epoch is shuffled, sorted by length within chunks of
    CHUNK_BATCHES batches, and cut; then the batches are shuffled. Each text comes once an epoch; the last batch may
    be smaller. Without `shuffle` the order is that of `token_ids`.

    Args:
        token_ids: the ids of each text, 0 being padding.
        labels: (N,) class of each text, -1 where it has none; None = no text has one.
        extras: more arrays with N rows, each going into the inputs under its name, for example "teacher_logits".
        batch_size: texts a batch.
        seed: of the order.
        shuffle: False for evaluation and prediction.
        length_multiple: T is the longest text of the batch rounded up to a multiple of this, so that few
            shapes have to be compiled; but no longer than the longest text of all, for which a model has positions.

    Raises:
        ValueError: if there is no text, sizes differ, or an extra is called "token_ids".
    """

    def __init__(
        self,
        token_ids: Sequence[Sequence[int]],
        labels: np.ndarray | None = None,
        extras: Mapping[str, np.ndarray] | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        length_multiple: int = 8,
    ) -> None:
        positive_integer("batch_size", batch_size)
        positive_integer("length_multiple", length_multiple)
        if not len(token_ids):
            raise ValueError("token_ids is empty: there is nothing to batch. Give at least one text.")
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.length_multiple = length_multiple
        self._rows = TokenRows(token_ids)
        self.lengths = self._rows.lengths
        self.labels = (
            np.full(len(self.lengths), UNLABELLED, np.int32) if labels is None else np.asarray(labels, np.int32)
        )
        self.extras = {name: np.asarray(values) for name, values in (extras or {}).items()}
        _check_rows(len(self.lengths), self.labels, self.extras)

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the last, smaller one included."""
        return -(-len(self.lengths) // self.batch_size)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of `epoch`, in order."""
        rows = np.arange(len(self.lengths))
        if not self.shuffle:
            return self._cut(rows)
        random = np.random.default_rng([self.seed, epoch])
        rows = random.permutation(rows)
        chunk = CHUNK_BATCHES * self.batch_size
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            rows[start : start + chunk] = part[np.argsort(self.lengths[part], kind="stable")]
        batches = self._cut(rows)
        return [batches[place] for place in random.permutation(len(batches))]

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """The batches of `epoch` without the first `skip`."""
        for rows in self.plan(epoch)[skip:]:
            yield self.batch(rows)

    def batch(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The inputs and labels of the texts `rows`: token_ids (B, T) int32, extras (B, ...), labels (B,) int32."""
        token_ids = self._rows.padded(rows, self.length_multiple)
        inputs = {"token_ids": token_ids, **{name: values[rows] for name, values in self.extras.items()}}
        return inputs, self.labels[rows]

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def _signature(self) -> tuple[dict[str, tf.TensorSpec], tf.TensorSpec]:
        inputs = {"token_ids": tf.TensorSpec((None, None), tf.int32)}
        for name, values in self.extras.items():
            inputs[name] = tf.TensorSpec((None, *values.shape[1:]), values.dtype)
        return inputs, tf.TensorSpec((None,), tf.int32)


def _check_rows(rows: int, labels: np.ndarray, extras: Mapping[str, np.ndarray]) -> None:
    if labels.shape != (rows,):
        raise ValueError(f"labels has shape {labels.shape}, but there are {rows} texts: it must be ({rows},).")
    for name, values in extras.items():
        if name == "token_ids":
            raise ValueError("extras: the name 'token_ids' is taken by the ids themselves. Use another name.")
        if values.shape[:1] != (rows,):
            raise ValueError(
                f"extras[{name!r}] has shape {values.shape}, but there are {rows} texts: its first size must be {rows}."
            )
