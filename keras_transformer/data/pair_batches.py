"""Pairs of token ids into batches of about equal numbers of tokens, for sequence-to-sequence models."""

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_transformer.checks import positive_integer
from keras_transformer.data.epochs import Epochs, TokenRows, rounded_up


class PairBatches(Epochs):
    """Batches of ({"source_ids": (B, S), "target_ids": (B, T)}, labels (B, T)), int32, 0 being padding.

    `labels` are the targets, which end in `end_id`; "target_ids" are the same moved right, `start_id` first: at each
    place the model reads what comes before the label. Vaswani et al. 2017, section 5.1, batch by length alike.

    Pairs are sorted by their rounded lengths, target first, and cut where B * (S + T), padding counted, would pass
    `max_tokens`; then the batches are shuffled. Pairs of equal rounded lengths are dealt anew each epoch, so which
    pairs make a batch depends on (`seed`, epoch) alone, while the shapes and the number of batches stay the same in
    each epoch, and a killed run can be resumed as with `Batches`. Each pair comes once an epoch. Without `shuffle`
    the order is the given one, cut by the same rule.

    Args:
        source_ids: the ids of each source.
        target_ids: the ids of each target, `end_id` last.
        max_tokens: B * (S + T) of a batch at most.
        start_id: what the decoder reads first.
        end_id: what each target ends in; checked.
        seed: of the order.
        shuffle: False for evaluation and prediction.
        length_multiple: S and T are rounded up to a multiple of this, so that few shapes have to be compiled; but no
            longer than the longest text of all.

    Raises:
        ValueError: if there is no pair, the numbers of sources and targets differ, a source is empty, a target doesn't
            end in `end_id`, or one pair alone has more than `max_tokens`.
    """

    def __init__(
        self,
        source_ids: Sequence[Sequence[int]],
        target_ids: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        start_id: int,
        end_id: int,
        seed: int = 0,
        shuffle: bool = True,
        length_multiple: int = 8,
    ) -> None:
        positive_integer("max_tokens", max_tokens)
        positive_integer("length_multiple", length_multiple)
        _check_pairs(source_ids, target_ids, end_id)
        self.max_tokens, self.start_id, self.end_id = max_tokens, start_id, end_id
        self.seed, self.shuffle, self.length_multiple = seed, shuffle, length_multiple
        self._sources, self._targets = TokenRows(source_ids), TokenRows(target_ids)
        self._source_rooms = rounded_up(self._sources.lengths, length_multiple)
        self._target_rooms = rounded_up(self._targets.lengths, length_multiple)
        self._check_room()
        self._cuts = self._cut_places(self._order(0))

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the same in each."""
        return len(self._cuts) + 1

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of `epoch`, in order."""
        batches = np.split(self._order(epoch), self._cuts)
        if not self.shuffle:
            return batches
        order = np.random.default_rng([self.seed, epoch, 1]).permutation(len(batches))
        return [batches[place] for place in order]

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """The batches of `epoch` without the first `skip`."""
        for rows in self.plan(epoch)[skip:]:
            yield self.batch(rows)

    def batch(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The inputs and labels of the pairs `rows`."""
        labels = self._targets.padded(rows, self.length_multiple)  # (B, T)
        target_ids = np.zeros_like(labels)
        target_ids[:, 0] = self.start_id
        # The label before, but not behind the last one: what a decoder reads there would be the end.
        target_ids[:, 1:] = np.where(labels[:, 1:] == 0, 0, labels[:, :-1])
        return {"source_ids": self._sources.padded(rows, self.length_multiple), "target_ids": target_ids}, labels

    def _order(self, epoch: int) -> np.ndarray:
        """All rows; shuffled, those of one (target room, source room) side by side."""
        if not self.shuffle:
            return np.arange(len(self._targets))
        rows = np.random.default_rng([self.seed, epoch]).permutation(len(self._targets))
        source, target = self._source_rooms[rows], self._target_rooms[rows]
        # Sources go up and down in turns: a batch over the edge of two target rooms has like sources.
        turn = np.where(target // self.length_multiple % 2, source, -source)
        return rows[np.lexsort([turn, target])]

    def _cut_places(self, rows: np.ndarray) -> np.ndarray:
        """Where batches begin, but for the first. Every epoch's order has the same lengths at the same places."""
        cuts, first, longest = [], 0, (0, 0)
        for place, row in enumerate(rows):
            wider = (max(longest[0], int(self._source_rooms[row])), max(longest[1], int(self._target_rooms[row])))
            if place > first and (place + 1 - first) * sum(wider) > self.max_tokens:
                cuts.append(place)
                first, wider = place, (int(self._source_rooms[row]), int(self._target_rooms[row]))
            longest = wider
        return np.array(cuts, np.int64)

    def _check_room(self) -> None:
        tokens = self._source_rooms + self._target_rooms
        worst = int(np.argmax(tokens))
        if tokens[worst] > self.max_tokens:
            raise ValueError(
                f"max_tokens={self.max_tokens}: pair {worst} alone has {tokens[worst]} tokens with padding. "
                f"Use max_tokens={tokens[worst]} or more, or cut the texts to a smaller max_length."
            )

    def _signature(self) -> tuple[dict[str, tf.TensorSpec], tf.TensorSpec]:
        ids = tf.TensorSpec((None, None), tf.int32)
        return {"source_ids": ids, "target_ids": ids}, ids


def _check_pairs(source_ids: Sequence[Sequence[int]], target_ids: Sequence[Sequence[int]], end_id: int) -> None:
    if len(source_ids) != len(target_ids) or not len(source_ids):
        raise ValueError(
            f"there are {len(source_ids)} sources and {len(target_ids)} targets: each source needs its target, and "
            "at least one pair. Give two lists of one length."
        )
    for row, (source, target) in enumerate(zip(source_ids, target_ids, strict=True)):
        if not len(source):
            raise ValueError(f"source_ids[{row}] is empty: an encoder needs a token. Give at least the end of a text.")
        if not len(target) or target[-1] != end_id:
            raise ValueError(
                f"target_ids[{row}] ends in {list(target[-1:])}, not in end_id={end_id}: a decoder would never learn "
                "to stop. Give the ids of tokenizer.encode(), which end so."
            )
