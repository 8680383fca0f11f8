"""Masked language modelling: some tokens are hidden, and the model is asked for them."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_transformer.checks import fraction, positive_integer
from keras_transformer.data.batching import UNLABELLED

CHOSEN, MASKED, EXCHANGED = 0.15, 0.8, 0.1  # Devlin et al. 2019, section 3.1 (task 1)


def hide_tokens(
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: Collection[int],
    seed: int,
    chosen: float = CHOSEN,
    first_batch: int = 0,
    ids: str = "token_ids",
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Return a function for `tf.data.Dataset.apply`: batches of ids become (ids with hidden tokens, labels (B, T)).

    Devlin et al. 2019, section 3.1: each token is chosen with probability `chosen`; of those 80% become [MASK], 10%
    a random token that isn't special, and 10% stay. The label of a chosen token is what it was. All others have the
    label -1, which is the Distiller's sign for "unlabelled" and which `MaskedCrossEntropy` doesn't count either: 0
    would be right for that loss alone. Padding and special tokens are never chosen.

    What is hidden depends on `seed` and the number of the batch alone. So each epoch of one data set hides other
    tokens, and a resumed run sees the same if `first_batch` says how many batches were skipped.

    >>> data = batches.dataset(0, epochs=3, skip=70).apply(
    ...     hide_tokens(mask_id=4, vocab_size=8000, special_ids=range(5), seed=1, first_batch=70))

    Args:
        mask_id: the id of [MASK].
        vocab_size: V; ids are 0 to V - 1.
        special_ids: ids that are never chosen, nor put in the place of another; 0 and `mask_id` are among them anyway.
        seed: of all choices.
        chosen: the share of tokens that are asked for.
        first_batch: the number of the first batch that comes.
        ids: the entry of x that holds the ids, where x is a dict. Batches are x, (x, y) or (x, y, sample_weight);
            labels and weights they had are left out.

    Raises:
        ValueError: if a number is out of its range, or no token is left to put in the place of another.
    """
    fraction("chosen", chosen)
    positive_integer("vocab_size", vocab_size)
    if not 0 <= mask_id < vocab_size:
        raise ValueError(f"mask_id={mask_id} isn't in the vocabulary: ids are 0 to {vocab_size - 1}. Add a [MASK].")
    special = np.zeros(vocab_size, bool)
    special[[0, mask_id, *special_ids]] = True
    if special.all():
        raise ValueError(f"special_ids: all {vocab_size} ids are special, so no token is left. Leave some out.")
    ordinary = tf.constant(np.flatnonzero(~special), tf.int32)

    def hide(number: tf.Tensor, element: Any) -> tuple[Any, tf.Tensor]:
        x = element[0] if isinstance(element, tuple) else element
        token_ids = x[ids] if isinstance(x, Mapping) else x  # (B, T)
        shape = tf.shape(token_ids)
        key = tf.stack([tf.cast(seed, tf.int64), number])
        draws = tf.random.stateless_uniform(tf.concat([[3], shape], 0), key)
        asked = tf.logical_and(draws[0] < chosen, tf.logical_not(tf.gather(tf.constant(special), token_ids)))
        others = tf.gather(ordinary, tf.cast(draws[2] * tf.cast(tf.size(ordinary), tf.float32), tf.int32))
        new = tf.where(draws[1] < MASKED, mask_id, tf.where(draws[1] < MASKED + EXCHANGED, others, token_ids))
        hidden = tf.where(asked, new, token_ids)
        labels = tf.where(asked, token_ids, UNLABELLED)
        return ({**x, ids: hidden} if isinstance(x, Mapping) else hidden), labels

    def apply(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.enumerate(first_batch).map(hide, num_parallel_calls=tf.data.AUTOTUNE)

    return apply
