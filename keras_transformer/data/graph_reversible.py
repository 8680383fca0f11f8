"""`ReversibleTokenizer` out of core TensorFlow operators, both ways: a SavedModel may take texts and give texts.

No custom operator library is needed, so every loader takes the file: TensorFlow Serving, the C API, Java, Go.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_transformer.data.character_table import BLOCK_CHARACTERS
from keras_transformer.data.reversible_tokenizer import FIRST_BYTE, MARK_ID, ReversibleTokenizer, check_max_length
from keras_transformer.data.text_pieces import (
    DIGIT,
    DROPPED,
    INSTEAD_OF_MARK,
    MARK,
    MAX_RUN_CHARACTERS,
    SIGN,
    SPACE,
    class_table,
)

# Letters of the shapes: N texts, C characters, R runs, P pieces, T ids of the longest text.
MISSING = 0
UNSPELLED = SIGN + 1  # a class beside those of `text_pieces`: outside the alphabet, written as bytes


class _Characters(NamedTuple):
    """The characters of all texts in a row, without spaces."""

    codes: tf.Tensor  # (C,)
    rows: tf.Tensor  # (C,): the text of each
    classes: tf.Tensor  # (C,)
    starts_word: tf.Tensor  # (C,) bool


class _Cutting(NamedTuple):
    """The runs that are still being cut, and the pieces found: the state of the loop of `_cut`."""

    step: tf.Tensor  # (): pieces cut off each of the active runs
    active: tf.Tensor  # (A,): places of the runs
    position: tf.Tensor  # (A,): characters of them that are behind us
    slots: tf.Tensor  # (P, 2): run and number in the run of each piece found
    ids: tf.Tensor  # (P,)


class GraphReversibleTokenizer(tf.Module):
    """`tokenizer.encode(texts, max_length)` in a TensorFlow graph, with the same ids.

    Bytes that aren't UTF-8 are dropped, as the lone surrogates of a Python string are. The longest match is found for
    all runs at once, a round of the loop a piece.

    Args:
        tokenizer: the vocabulary.
        max_length: the most ids a text gives, [END] included.

    Raises:
        ValueError: if `max_length` has no room for a piece.
    """

    def __init__(self, tokenizer: ReversibleTokenizer, max_length: int) -> None:
        super().__init__()
        check_max_length(max_length)
        self.max_length, self.end_id = max_length, tokenizer.end_id
        self.longest_piece = tokenizer.longest_piece
        pieces = tf.constant(tokenizer.vocab[MARK_ID:])
        ids = tf.range(MARK_ID, tokenizer.vocab_size, dtype=tf.int32)
        self.ids = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(pieces, ids), MISSING)
        blocks, entries = _blocks(tokenizer)
        self.blocks, self.entries = tf.constant(blocks), tf.constant(entries)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """(N,) strings -> (N, T) int32 filled up with 0; T is the longest of these texts, at most `max_length`."""
        characters = self._characters(texts)
        runs, rows, byte_ids = self._runs(characters)
        return self._padded(self._pieces(runs, byte_ids), rows, tf.size(texts))

    def _characters(self, texts: tf.Tensor) -> _Characters:
        decoded = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        codes, rows = decoded.values, tf.cast(decoded.value_rowids(), tf.int32)
        codes = tf.where(tf.equal(codes, ord(MARK)), ord(INSTEAD_OF_MARK), codes)
        block = tf.gather(self.blocks, codes // BLOCK_CHARACTERS)
        classes = tf.cast(
            tf.gather_nd(self.entries, tf.stack([tf.cast(block, tf.int32), codes % BLOCK_CHARACTERS], 1)), tf.int32
        )
        kept = tf.not_equal(classes, DROPPED)
        codes, rows, classes = (tf.boolean_mask(values, kept) for values in (codes, rows, classes))
        starts_word = tf.logical_or(_before(tf.equal(classes, SPACE), True), tf.not_equal(rows, _before(rows, -1)))
        real = tf.not_equal(classes, SPACE)
        return _Characters(*(tf.boolean_mask(values, real) for values in (codes, rows, classes, starts_word)))

    def _runs(self, characters: _Characters) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(R,) texts of the runs, (R,) the text that each belongs to, (R, 4) the ids of its bytes if it has them."""
        codes, rows, classes, starts_word = characters
        unspelled = tf.equal(classes, UNSPELLED)
        place = tf.range(tf.size(codes))
        begins = tf.logical_or(starts_word, tf.not_equal(classes, _before(classes, -1)))  # (C,): a group of one class
        group = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        in_group = place - tf.gather(tf.boolean_mask(place, begins), group)
        alone = tf.logical_or(tf.equal(classes, DIGIT), unspelled)
        opens = tf.logical_or(alone, tf.equal(in_group % MAX_RUN_CHARACTERS, 0))
        # A mark opens the run that its character then goes on with, unless that one is written as bytes.
        opens = tf.logical_and(opens, tf.logical_or(tf.logical_not(starts_word), unspelled))

        def with_marks(of_marks: tf.Tensor, of_characters: tf.Tensor) -> tf.Tensor:
            both = tf.reshape(tf.stack([of_marks, of_characters], 1), [-1])
            return tf.boolean_mask(both, with_mark)

        with_mark = tf.reshape(tf.stack([starts_word, tf.ones_like(starts_word)], 1), [-1])
        opened = with_marks(starts_word, opens)  # (C + words,)
        run = tf.cumsum(tf.cast(opened, tf.int32)) - 1
        written = with_marks(tf.fill(tf.shape(codes), ord(MARK)), codes)
        as_bytes = with_marks(tf.zeros_like(unspelled), unspelled)
        text = tf.boolean_mask(with_marks(rows, rows), opened)  # (R,)
        ragged = tf.RaggedTensor.from_value_rowids(written, run, tf.size(text), validate=False)
        byte_ids = tf.where(
            tf.expand_dims(tf.boolean_mask(as_bytes, opened), 1), _byte_ids(tf.boolean_mask(written, opened)), MISSING
        )  # (R, 4)
        return _fitting(tf.strings.unicode_encode(ragged, "UTF-8"), text, byte_ids, self.max_length)

    def _pieces(self, runs: tf.Tensor, byte_ids: tf.Tensor) -> tf.Tensor:
        """(R, P) ids of the pieces of each run, filled up with 0; P is 4 at least."""
        spelled = tf.equal(byte_ids[:, 0], MISSING)
        whole = tf.where(spelled, self.ids.lookup(runs), MISSING)  # (R,)
        short = byte_ids + tf.pad(tf.expand_dims(whole, 1), [[0, 0], [0, 3]])  # (R, 4)
        unfound = tf.cast(tf.squeeze(tf.where(tf.logical_and(spelled, tf.equal(whole, MISSING))), 1), tf.int32)  # (A,)

        def cut_the_rest() -> tf.Tensor:
            cut = self._cut(tf.gather(runs, unfound))  # (A, P)
            width = tf.maximum(tf.shape(cut)[1], 4)
            cut = tf.pad(cut, [[0, 0], [0, width - tf.shape(cut)[1]]])
            return tf.tensor_scatter_nd_update(tf.pad(short, [[0, 0], [0, width - 4]]), tf.expand_dims(unfound, 1), cut)

        return tf.cond(tf.size(unfound) > 0, cut_the_rest, lambda: short)

    def _cut(self, runs: tf.Tensor) -> tf.Tensor:
        """(A, P) ids of the pieces of runs that aren't in the vocabulary as a whole."""
        count = tf.size(runs)
        lengths = tf.strings.length(runs, unit="UTF8_CHAR")
        start = _Cutting(
            step=tf.constant(0),
            active=tf.range(count),
            position=tf.zeros_like(lengths),
            slots=tf.zeros((0, 2), tf.int32),
            ids=tf.zeros((0,), tf.int32),
        )
        done = tf.while_loop(
            lambda *state: tf.size(_Cutting(*state).active) > 0,
            lambda *state: self._cut_one_piece(runs, lengths, _Cutting(*state)),
            start,
            shape_invariants=_Cutting(
                step=tf.TensorShape(()),
                active=tf.TensorShape((None,)),
                position=tf.TensorShape((None,)),
                slots=tf.TensorShape((None, 2)),
                ids=tf.TensorShape((None,)),
            ),
        )
        return tf.scatter_nd(done.slots, done.ids, tf.stack([count, done.step]))

    def _cut_one_piece(self, runs: tf.Tensor, lengths: tf.Tensor, state: _Cutting) -> _Cutting:
        remaining = tf.gather(lengths, state.active) - state.position  # (A,)
        sizes = tf.range(1, tf.minimum(self.longest_piece, tf.reduce_max(remaining)) + 1)  # (L,)
        shape = tf.stack([tf.size(state.active), tf.size(sizes)])
        candidates = tf.strings.substr(
            tf.expand_dims(tf.gather(runs, state.active), 1),
            tf.broadcast_to(tf.expand_dims(state.position, 1), shape),
            tf.broadcast_to(sizes, shape),
            unit="UTF8_CHAR",
        )  # (A, L)
        found = self.ids.lookup(candidates)  # (A, L)
        # A candidate that would reach beyond the end is the shorter one over again.
        usable = tf.logical_and(sizes <= tf.expand_dims(remaining, 1), tf.not_equal(found, MISSING))
        # One character is always a piece; at least 1, so that the loop ends whatever comes.
        longest = tf.reduce_max(tf.where(usable, sizes, 1), axis=1)  # (A,)
        goes_on = longest < remaining
        slots = tf.stack([state.active, tf.fill(tf.shape(state.active), state.step)], axis=1)  # (A, 2)
        return _Cutting(
            step=state.step + 1,
            active=tf.boolean_mask(state.active, goes_on),
            position=tf.boolean_mask(state.position + longest, goes_on),
            slots=tf.concat([state.slots, slots], 0),
            ids=tf.concat([state.ids, tf.gather(found, longest - 1, batch_dims=1)], 0),
        )

    def _padded(self, pieces: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """(N, T) ids: the pieces of the runs of each text as far as they fit, [END]."""
        real = tf.not_equal(pieces, MISSING)  # (R, P)
        ids = tf.boolean_mask(pieces, real)  # (all pieces,)
        row = tf.boolean_mask(tf.broadcast_to(tf.expand_dims(rows, 1), tf.shape(pieces)), real)
        totals = tf.math.unsorted_segment_sum(tf.ones_like(row), row, count)  # (N,)
        column = tf.range(tf.size(ids)) - tf.gather(tf.cumsum(totals, exclusive=True), row)
        fits = column < self.max_length - 1
        lengths = tf.minimum(totals, self.max_length - 1)  # (N,)
        places = tf.concat(
            [tf.boolean_mask(tf.stack([row, column], 1), fits), tf.stack([tf.range(count), lengths], 1)], 0
        )
        values = tf.concat([tf.boolean_mask(ids, fits), tf.fill([count], self.end_id)], 0)
        longest = tf.reduce_max(tf.concat([lengths, [0]], 0)) + 1  # no text at all still has a width
        return tf.scatter_nd(places, values, tf.stack([count, longest]))


class GraphDetokenizer(tf.Module):
    """`tokenizer.decode(ids)` of each row, in a TensorFlow graph.

    An id beyond the vocabulary is an error of `tf.gather`, not of ours: nothing can be raised in a graph.

    Args:
        tokenizer: the vocabulary.
    """

    def __init__(self, tokenizer: ReversibleTokenizer) -> None:
        super().__init__()
        self.pieces = tf.constant(tokenizer.piece_bytes())

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)], autograph=False)
    def __call__(self, token_ids: tf.Tensor) -> tf.Tensor:
        """(N, T) ids -> (N,) strings of valid UTF-8."""
        joined = tf.strings.reduce_join(tf.gather(self.pieces, token_ids), axis=1)
        readable = tf.strings.unicode_transcode(
            joined, "UTF-8", "UTF-8", errors="ignore", replace_control_characters=False
        )
        return tf.strings.regex_replace(readable, "^ ", "", replace_global=False)


def _before(values: tf.Tensor, first: int) -> tf.Tensor:
    """`values` moved on by one place, with `first` in front."""
    return tf.concat([tf.cast([first], values.dtype), values], 0)[: tf.size(values)]


def _byte_ids(codes: tf.Tensor) -> tf.Tensor:
    """(R, 4) ids of the UTF-8 bytes of each character, filled up with 0: table 3-6 of the Unicode standard."""
    tail = [tf.bitwise.right_shift(codes, 6 * place) % 64 + 0x80 for place in range(3)]
    none = tf.fill(tf.shape(codes), MISSING - FIRST_BYTE)
    forms = [
        [codes, none, none, none],
        [0xC0 + tf.bitwise.right_shift(codes, 6), tail[0], none, none],
        [0xE0 + tf.bitwise.right_shift(codes, 12), tail[1], tail[0], none],
        [0xF0 + tf.bitwise.right_shift(codes, 18), tail[2], tail[1], tail[0]],
    ]
    longer = [tf.expand_dims(codes >= limit, 1) for limit in (0x80, 0x800, 0x10000)]
    chosen = tf.stack(forms[0], 1)
    for form, reached in zip(forms[1:], longer, strict=True):
        chosen = tf.where(reached, tf.stack(form, 1), chosen)
    return chosen + FIRST_BYTE


def _fitting(
    runs: tf.Tensor, rows: tf.Tensor, byte_ids: tf.Tensor, max_length: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Leave out a text's runs that can't fit: each gives a piece at least, and a long text has very many."""
    place = tf.range(tf.size(rows))
    first = tf.math.unsorted_segment_min(place, rows, tf.reduce_max(tf.concat([rows, [0]], 0)) + 1)
    fits = place - tf.gather(first, rows) < max_length - 1
    return tf.boolean_mask(runs, fits), tf.boolean_mask(rows, fits), tf.boolean_mask(byte_ids, fits)


def _blocks(tokenizer: ReversibleTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(8704,) int16 rows, and those rows (rows, 128) int8: the class of each character; most blocks are alike."""
    classes = class_table().copy()
    alphabet = np.zeros(len(classes), bool)
    alphabet[[ord(character) for character in tokenizer.alphabet]] = True
    classes[~alphabet & (classes != DROPPED) & (classes != SPACE)] = UNSPELLED
    entries, blocks = np.unique(classes.reshape(-1, BLOCK_CHARACTERS), axis=0, return_inverse=True)
    return blocks.astype(np.int16), entries
