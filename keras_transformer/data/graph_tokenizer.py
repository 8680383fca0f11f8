"""The same WordPiece as `tokenizer.WordPiece`, out of core TensorFlow operators: a SavedModel may hold it.

No custom operator library is needed, so every loader takes the file: TensorFlow Serving, the C API, Java, Go.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_transformer.data.character_table import BLOCK_CHARACTERS, ITSELF, NOTHING, character_table
from keras_transformer.data.tokenizer import CONTINUATION, MASK, MAX_WORD_CHARACTERS, WordPiece, check_max_length

# Letters of the shapes: N texts, C characters, W words, A words still being cut, P pieces, T ids of the longest text.
MISSING, NO_MATCH = 0, -1


class _Cutting(NamedTuple):
    """The words that are still being cut, and the pieces found: the state of the loop of `_cut_words`."""

    step: tf.Tensor  # (): pieces cut off each of the active words
    active: tf.Tensor  # (A,): places in `words`
    position: tf.Tensor  # (A,): characters of them that are behind us
    slots: tf.Tensor  # (P, 2): word and number in the word of each piece found
    ids: tf.Tensor  # (P,): their ids, NO_MATCH where a word can't be cut on


class GraphWordPiece(tf.Module):
    """`tokenizer.encode(texts, max_length)` in a TensorFlow graph, with the same ids.

    Bytes that aren't UTF-8 are dropped, as the lone surrogates of a Python string are. The longest match is found
    for all words at once, a round of the loop a piece; words that are in the vocabulary as a whole skip the loop.

    One difference is known: NFD also sorts adjacent combining marks, which a look-up by character can't. It shows
    only with marks that the normaliser leaves in place, in the wrong order, and with a vocabulary that has them.

    Args:
        tokenizer: the vocabulary and its rules.
        max_length: the most ids a text gives, [CLS] and [SEP] included.

    Raises:
        ValueError: if `max_length` has no room for a piece.
    """

    def __init__(self, tokenizer: WordPiece, max_length: int) -> None:
        super().__init__()
        check_max_length(max_length)
        self.max_length = max_length
        self.start_id, self.end_id, self.unknown_id = tokenizer.start_id, tokenizer.end_id, tokenizer.unknown_id
        self.reads_mask = tokenizer.reads_mask
        self.longest_piece = max(len(piece.removeprefix(CONTINUATION)) for piece in tokenizer.vocab)
        pieces = tf.constant(tokenizer.vocab)
        ids = tf.range(tokenizer.vocab_size, dtype=tf.int32)
        # [PAD] can't stand in a text, so its id 0 can mean that a piece is missing.
        self.ids = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(pieces, ids), MISSING)
        table = character_table(tokenizer)
        self.blocks = tf.constant(table.blocks)
        self.entries = tf.constant(table.entries.reshape(-1))
        self.outputs = tf.constant(table.outputs)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """(N,) strings -> (N, T) int32 filled up with 0; T is the longest of these texts, at most `max_length`."""
        words, rows = self._words(self._between_masks(texts) if self.reads_mask else self._normalized(texts))  # (W,)
        pieces = self._pieces(words)  # (W, most pieces a word)
        return self._padded(pieces, rows, tf.size(texts))

    def _between_masks(self, texts: tf.Tensor) -> tf.Tensor:
        """`_normalized` of what stands around each "[MASK]", which stays as a word of its own: (N,) -> (N,)."""
        parts = tf.strings.split(texts, MASK)
        # Joining would leave out the separator behind parts with nothing in them.
        spaced = tf.strings.join([" ", self._normalized(parts.values), " "])
        return tf.strings.reduce_join(parts.with_values(spaced), axis=1, separator=MASK)

    def _normalized(self, texts: tf.Tensor) -> tf.Tensor:
        """(N,) texts, lower-cased, without accents and controls, a space at each end of a word."""
        decoded = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        codes = tf.expand_dims(decoded.values, 1)  # (C, 1)
        block = tf.cast(tf.gather(self.blocks, codes // BLOCK_CHARACTERS), tf.int32)
        entry = tf.gather(self.entries, block * BLOCK_CHARACTERS + codes % BLOCK_CHARACTERS)
        outputs = tf.gather(self.outputs, tf.cast(tf.squeeze(entry, 1), tf.int32))  # (C, K)
        outputs = tf.where(tf.equal(outputs, ITSELF), codes, outputs)
        kept = tf.not_equal(outputs, NOTHING)
        ends = tf.cumsum(tf.math.count_nonzero(kept, axis=1))  # (C,)
        splits = tf.gather(tf.concat([[tf.constant(0, tf.int64)], ends], 0), decoded.row_splits)  # (N + 1,)
        characters = tf.RaggedTensor.from_row_splits(tf.boolean_mask(outputs, kept), splits, validate=False)
        return tf.strings.unicode_encode(characters, "UTF-8")

    def _words(self, normalized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(W,) words of all texts and (W,) the text of each; a text's words that can't fit are left out early."""
        split = tf.raw_ops.StringSplitV2(input=normalized, sep="")
        fits = split.indices[:, 1] < self.max_length - 2
        return tf.boolean_mask(split.values, fits), tf.boolean_mask(tf.cast(split.indices[:, 0], tf.int32), fits)

    def _pieces(self, words: tf.Tensor) -> tf.Tensor:
        """(W, P) ids of the pieces of each word, filled up with 0."""
        lengths = tf.strings.length(words, unit="UTF8_CHAR")  # (W,)
        whole = tf.where(lengths > MAX_WORD_CHARACTERS, self.unknown_id, self.ids.lookup(words))  # (W,)
        unfound = tf.cast(tf.squeeze(tf.where(tf.equal(whole, MISSING)), 1), tf.int32)  # (A,)

        def cut_the_rest() -> tf.Tensor:
            cut = self._cut_words(tf.gather(words, unfound), tf.gather(lengths, unfound))  # (A, P)
            columns = tf.shape(cut)[1]
            pieces = tf.pad(tf.expand_dims(whole, 1), [[0, 0], [0, columns - 1]])  # (W, P)
            return tf.tensor_scatter_nd_update(pieces, tf.expand_dims(unfound, 1), cut)

        return tf.cond(tf.size(unfound) > 0, cut_the_rest, lambda: tf.expand_dims(whole, 1))

    def _cut_words(self, words: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """(A, P) ids of the pieces of words that aren't in the vocabulary as a whole."""
        count = tf.size(words)
        start = _Cutting(
            step=tf.constant(0),
            active=tf.range(count),
            position=tf.zeros_like(lengths),
            slots=tf.zeros((0, 2), tf.int32),
            ids=tf.zeros((0,), tf.int32),
        )
        done = tf.while_loop(
            lambda *state: tf.size(_Cutting(*state).active) > 0,
            lambda *state: self._cut_one_piece(words, lengths, _Cutting(*state)),
            start,
            shape_invariants=_Cutting(
                step=tf.TensorShape(()),
                active=tf.TensorShape((None,)),
                position=tf.TensorShape((None,)),
                slots=tf.TensorShape((None, 2)),
                ids=tf.TensorShape((None,)),
            ),
        )
        pieces = tf.scatter_nd(done.slots, done.ids, tf.stack([count, done.step]))  # (A, P)
        broken = tf.reduce_any(tf.equal(pieces, NO_MATCH), axis=1, keepdims=True)  # (A, 1)
        unknown = tf.expand_dims(tf.one_hot(0, done.step, on_value=self.unknown_id, dtype=tf.int32), 0)  # (1, P)
        return tf.where(broken, unknown, pieces)

    def _cut_one_piece(self, words: tf.Tensor, lengths: tf.Tensor, state: _Cutting) -> _Cutting:
        remaining = tf.gather(lengths, state.active) - state.position  # (A,)
        sizes = tf.range(1, tf.minimum(self.longest_piece, tf.reduce_max(remaining)) + 1)  # (L,)
        shape = tf.stack([tf.size(state.active), tf.size(sizes)])
        candidates = tf.strings.substr(
            tf.expand_dims(tf.gather(words, state.active), 1),
            tf.broadcast_to(tf.expand_dims(state.position, 1), shape),
            tf.broadcast_to(sizes, shape),
            unit="UTF8_CHAR",
        )  # (A, L)
        prefix = tf.where(state.step > 0, CONTINUATION, "")
        found = self.ids.lookup(tf.strings.join([prefix, candidates]))  # (A, L)
        # A candidate that would reach beyond the end is the shorter one over again.
        usable = tf.logical_and(sizes <= tf.expand_dims(remaining, 1), tf.not_equal(found, MISSING))
        longest = tf.reduce_max(tf.where(usable, sizes, 0), axis=1)  # (A,)
        ids = tf.gather(found, tf.maximum(longest - 1, 0), batch_dims=1)  # (A,)
        matched = longest > 0
        goes_on = tf.logical_and(matched, longest < remaining)
        slots = tf.stack([state.active, tf.fill(tf.shape(state.active), state.step)], axis=1)  # (A, 2)
        return _Cutting(
            step=state.step + 1,
            active=tf.boolean_mask(state.active, goes_on),
            position=tf.boolean_mask(state.position + longest, goes_on),
            slots=tf.concat([state.slots, slots], 0),
            ids=tf.concat([state.ids, tf.where(matched, ids, NO_MATCH)], 0),
        )

    def _padded(self, pieces: tf.Tensor, rows: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """(N, T) ids: [CLS], the pieces of the words of each text as far as they fit, [SEP]."""
        real = tf.not_equal(pieces, MISSING)  # (W, P)
        ids = tf.boolean_mask(pieces, real)  # (all pieces,)
        row = tf.boolean_mask(tf.broadcast_to(tf.expand_dims(rows, 1), tf.shape(pieces)), real)
        totals = tf.math.unsorted_segment_sum(tf.ones_like(row), row, count)  # (N,)
        column = tf.range(tf.size(ids)) - tf.gather(tf.cumsum(totals, exclusive=True), row)
        fits = column < self.max_length - 2
        lengths = tf.minimum(totals, self.max_length - 2)  # (N,)
        every = tf.range(count)
        places = tf.concat(
            [
                tf.stack([every, tf.zeros_like(every)], 1),
                tf.boolean_mask(tf.stack([row, column + 1], 1), fits),
                tf.stack([every, lengths + 1], 1),
            ],
            0,
        )
        values = tf.concat(
            [tf.fill([count], self.start_id), tf.boolean_mask(ids, fits), tf.fill([count], self.end_id)], 0
        )
        longest = tf.reduce_max(tf.concat([lengths, [0]], 0)) + 2  # no text at all still has a width
        return tf.scatter_nd(places, values, tf.stack([count, longest]))
