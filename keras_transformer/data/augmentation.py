"""More texts for a student: words exchanged for similar ones, as TinyBERT does it, inside tf.data."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_transformer.checks import positive_integer
from keras_transformer.data.batching import UNLABELLED
from keras_transformer.data.tokenizer import CONTINUATION

SIMILARITY_ROWS = 512  # rows compared at once, so that memory stays below 100 MB for 30,000 pieces
DIFFERENT_PLACES = 4096  # a longer text takes its multipliers round again
TEACHER_PREFIX = "teacher_"  # of what was recorded for the text as it was

Candidates = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(token ids (B, T) int32, which are exchanged (B, T) bool) -> (B, T, K) int32: what each may be exchanged for."""


class WholeWords(NamedTuple):
    """What the ids of a vocabulary stand for."""

    words: np.ndarray  # (V,) bool: a piece that can be a word alone, with a letter in it
    continues: np.ndarray  # (V,) bool: a piece that goes on with the word before it

    @classmethod
    def of(cls, vocab: Sequence[str]) -> "WholeWords":
        """Look through the pieces of a WordPiece vocabulary, in the order of their ids.

        No word is a special piece (any in square brackets), one that starts with "##", or one without a letter.
        """
        continues = np.array([piece.startswith(CONTINUATION) and piece != CONTINUATION for piece in vocab])
        special = np.array([piece.startswith("[") and piece.endswith("]") for piece in vocab])
        lettered = np.array([any(character.isalpha() for character in piece) for piece in vocab])
        return cls(lettered & ~special & ~continues, continues)


def nearest_words(table: np.ndarray, whole: WholeWords, count: int = 15) -> Candidates:
    """The `count` words whose embeddings have the largest cosine with a word's own, itself left out.

    Jiao et al. 2020, algorithm 1, take GloVe's neighbours for words of several pieces and a masked language model's
    guesses for the others; this takes the teacher's token embeddings for words of one piece.

    Args:
        table: (V, D) float, for example the weight "tokens/table" of a `TextClassifier`.
        whole: which rows are words.
        count: K; the paper uses 15.

    Raises:
        ValueError: if the table hasn't a row a piece, or there are no `count` other words.
    """
    positive_integer("count", count)
    ids = np.flatnonzero(whole.words)
    if len(table) != len(whole.words):
        raise ValueError(
            f"table has {len(table)} rows, but the vocabulary has {len(whole.words)} pieces: give all rows."
        )
    if count >= len(ids):
        raise ValueError(f"count={count} neighbours of {len(ids)} words: use count={len(ids) - 1} or less.")
    rows = np.asarray(table[ids], np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    nearest = np.zeros((len(table), count), np.int32)
    for start in range(0, len(ids), SIMILARITY_ROWS):
        block = slice(start, start + SIMILARITY_ROWS)
        cosine = directions[block] @ directions.T  # (rows, words)
        cosine[np.arange(len(cosine)), np.arange(start, start + len(cosine))] = -np.inf
        nearest[ids[block]] = ids[np.argsort(-cosine, axis=1, kind="stable")[:, :count]]
    neighbours = tf.constant(nearest)
    return lambda token_ids, exchanged: tf.gather(neighbours, token_ids)


def masked_words(
    model: Callable[[tf.Tensor], tf.Tensor], mask_id: int, whole: WholeWords, count: int = 15
) -> Candidates:
    """The `count` words that a masked language model finds likeliest in the place of each exchanged word.

    Jiao et al. 2020, algorithm 1, mask one word at a time; here all words that are to be exchanged are masked at
    once, which costs one forward pass a copy and not one a word.

    Args:
        model: token ids (B, T) int32 -> logits (B, T, V).
        mask_id: the id of [MASK].
        whole: which pieces are words; no other is proposed.
        count: K.

    Raises:
        ValueError: if the vocabulary hasn't so many words.
    """
    positive_integer("count", count)
    if count > whole.words.sum():
        raise ValueError(f"count={count} guesses of {whole.words.sum()} words: use a smaller count.")
    words = tf.constant(whole.words)

    def guess(token_ids: tf.Tensor, exchanged: tf.Tensor) -> tf.Tensor:
        logits = tf.cast(model(tf.where(exchanged, mask_id, token_ids)), tf.float32)
        return tf.math.top_k(tf.where(words, logits, logits.dtype.min), count).indices

    return guess


def augment(
    dataset: tf.data.Dataset,
    whole: WholeWords,
    candidates: Candidates,
    *,
    probability: float = 0.4,
    copies: int = 20,
    seed: int = 0,
    keep_labels: bool = False,
    ids: str = "token_ids",
) -> tf.data.Dataset:
    """Follow each batch by `copies` of it in which some words are exchanged (Jiao et al. 2020, algorithm 1).

    Each word is exchanged with `probability`, for one of its candidates, all equally likely. A word of several pieces
    stays, and so do special pieces, padding and punctuation; so the length is kept. What a copy becomes depends on
    the text, its number and the seed alone: not on its batch, its padding or the epoch. So copies are the same in
    each epoch and after a restart, `cache_teacher` finds them again, and another seed gives other ones.

    >>> whole = WholeWords.of(tokenizer.vocab)
    >>> table = teacher.get_layer("tokens").get_weights()[0]
    >>> data = augment(batches.dataset(), whole, nearest_words(table, whole)).shuffle(100)

    Args:
        dataset: batches of x, (x, y) or (x, y, sample_weight); x is ids (B, T), or a dict that has them.
        whole: which ids are words.
        candidates: `nearest_words(...)`, `masked_words(...)`, or a function like them.
        probability: p_t of the paper, which uses 0.4.
        copies: N_a of the paper, which uses 20.
        seed: of all choices, a whole number of at least 0.
        keep_labels: whether a copy has the label of its text. Otherwise it is unlabelled (-1; NaN where labels are
            floats): an exchanged word may turn a text into its opposite, and the teacher will tell.
        ids: the entry of x that holds the ids.

    Raises:
        ValueError: if `probability` isn't from 0 to 1, or the seed no whole number of at least 0; if x has no such
            entry, or holds what was recorded of a teacher, who hasn't seen the copies; if the labels' dtype can't
            hold -1 and copies are to be unlabelled.
    """
    positive_integer("copies", copies)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability!r} must be from 0 to 1. Use for example probability=0.4.")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed={seed!r} must be a whole number of at least 0. Use for example seed=0.")
    _check_inputs(dataset.element_spec, ids)
    if not keep_labels:
        _check_labels(dataset.element_spec)

    def with_copies(*element: Any) -> tf.data.Dataset:
        whole_element = element if isinstance(dataset.element_spec, tuple) else element[0]

        def copy(number: tf.Tensor) -> Any:
            x, *rest = element
            token_ids = x[ids] if isinstance(x, Mapping) else x
            changed = _exchanged(token_ids, whole, candidates, probability, seed, number)
            x = {**x, ids: changed} if isinstance(x, Mapping) else changed
            if rest and not keep_labels:
                rest[0] = _unlabelled(rest[0])
            return (x, *rest) if isinstance(dataset.element_spec, tuple) else x

        original = tf.data.Dataset.from_tensors(whole_element)
        return original.concatenate(tf.data.Dataset.range(copies).map(copy))

    augmented = dataset.flat_map(with_copies)
    batches = dataset.cardinality()
    if batches < 0:  # unknown, or without end
        return augmented
    return augmented.apply(tf.data.experimental.assert_cardinality(batches * (copies + 1)))


def _exchanged(
    token_ids: tf.Tensor, whole: WholeWords, candidates: Candidates, probability: float, seed: int, number: tf.Tensor
) -> tf.Tensor:
    """A copy of the texts (B, T), with the choices of copy `number`."""
    kind = token_ids.dtype
    token_ids = tf.cast(token_ids, tf.int32)
    continued = tf.pad(tf.gather(tf.constant(whole.continues), token_ids[:, 1:]), [[0, 0], [0, 1]])
    words = tf.logical_and(tf.gather(tf.constant(whole.words), token_ids), tf.logical_not(continued))
    draws = _uniform(token_ids, seed, number)  # (2, B, T)
    exchanged = tf.logical_and(words, draws[0] < probability)
    offered = candidates(token_ids, exchanged)  # (B, T, K)
    count = tf.shape(offered)[-1]
    place = tf.minimum(tf.cast(draws[1] * tf.cast(count, tf.float32), tf.int32), count - 1)
    chosen = tf.gather(offered, place, batch_dims=2)
    return tf.cast(tf.where(exchanged, chosen, token_ids), kind)


def _uniform(token_ids: tf.Tensor, seed: int, number: tf.Tensor) -> tf.Tensor:
    """Two numbers from 0 to 1 for each token, (2, B, T) float32, out of its text, its place, the seed and `number`.

    A text's hash is sum_t id_t m_t modulo 2^64 with fixed random odd m_t, so that padding (0) adds nothing; the
    numbers are that hash and the place, mixed as in SplitMix64 (Steele, Lea and Flood 2014, Stafford's constants).
    """
    length = tf.shape(token_ids)[1]
    random = np.random.default_rng(seed)
    multipliers = tf.constant(
        random.integers(0, 1 << 63, DIFFERENT_PLACES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    )
    terms = tf.cast(token_ids, tf.uint64) * tf.gather(multipliers, tf.range(length) % DIFFERENT_PLACES)
    text = tf.reduce_sum(terms, axis=1, keepdims=True)  # (B, 1)
    salt = _mixed(tf.cast(number, tf.uint64) + tf.constant(int(random.integers(1 << 62)), tf.uint64))
    places = tf.cast(tf.range(length), tf.uint64)
    streams = [_mixed(_mixed(text ^ salt) + 2 * places + tf.constant(stream, tf.uint64)) for stream in (0, 1)]
    return tf.stack([tf.cast(tf.bitwise.right_shift(bits, 40), tf.float32) / float(1 << 24) for bits in streams])


def _mixed(x: tf.Tensor) -> tf.Tensor:
    x = x + tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    x = (x ^ tf.bitwise.right_shift(x, 30)) * tf.constant(0xBF58476D1CE4E5B9, tf.uint64)
    x = (x ^ tf.bitwise.right_shift(x, 27)) * tf.constant(0x94D049BB133111EB, tf.uint64)
    return x ^ tf.bitwise.right_shift(x, 31)


def _unlabelled(labels: tf.Tensor) -> tf.Tensor:
    return tf.fill(tf.shape(labels), tf.cast(float("nan") if labels.dtype.is_floating else UNLABELLED, labels.dtype))


def _check_inputs(element_spec: Any, ids: str) -> None:
    x = element_spec[0] if isinstance(element_spec, tuple) else element_spec
    if not isinstance(x, Mapping):
        return
    if ids not in x:
        raise ValueError(f"ids={ids!r}: x has {sorted(x)} and no such entry. Name the one that holds the token ids.")
    if stale := [name for name in x if name.startswith(TEACHER_PREFIX)]:
        raise ValueError(
            f"x holds {stale}, recorded for the texts as they were: the copies would be taught by it. Augment first, "
            "then record the teacher."
        )


def _check_labels(element_spec: Any) -> None:
    labels = element_spec[1] if isinstance(element_spec, tuple) and len(element_spec) > 1 else None
    if labels is not None and (labels.dtype.is_bool or labels.dtype.is_unsigned):
        raise ValueError(
            f"labels have dtype {labels.dtype.name}, which can't hold {UNLABELLED}, and the copies are to be "
            "unlabelled. Use labels.astype('int32'), or keep_labels=True."
        )
