"""The signatures of a SavedModel that writes: raw texts in, raw texts out, the loop and both tokenizers inside.

What a caller decides comes as one number a text, (N,), beside the texts: so a server may put the texts of several
callers into one batch.
"""

from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from keras_transformer.data.continuations import WHOLE
from keras_transformer.data.in_graph import detokenizer_in_graph, tokenizer_in_graph
from keras_transformer.export.requirements import Limits
from keras_transformer.export.serving_graph import save
from keras_transformer.export.signature_names import DEFAULT, GENERATE, GENERATE_TOKENS, SEARCH, TOKENS
from keras_transformer.export.signatures import BareWeights, checked_ids, checked_texts
from keras_transformer.export.writing import (
    ALPHA,
    PreparedWriting,
    Writing,
    found_by_beam,
    greedy_ids,
    whole_function,
)
from keras_transformer.models.decoding import length_penalty
from keras_transformer.tasks import LANGUAGE_MODEL

TOKEN_IDS, TEXT, MOST = "token_ids", "text", "max_tokens"


class WritingModule(BareWeights):
    """The weights, and the tokenizer of both directions with its tables."""

    def __init__(self, writing: Writing, graph_tokenizer: tf.Module, graph_detokenizer: tf.Module) -> None:
        super().__init__(writing.model)
        self.graph_tokenizer, self.graph_detokenizer = graph_tokenizer, graph_detokenizer


def write_for_servers(prepared: PreparedWriting, folder: Path, beam_width: int) -> None:
    """Write the SavedModel of a prepared model into the new `folder`.

    Raises:
        UserError: if the tokenizer can't run in the graph.
    """
    writing = prepared.writing
    # A language model reads the end of a long text, so it has to see all of it.
    longest = WHOLE if writing.task == LANGUAGE_MODEL else writing.max_length
    module = WritingModule(
        writing, tokenizer_in_graph(writing.tokenizer, longest), detokenizer_in_graph(writing.tokenizer)
    )
    signatures = default_signatures(writing, prepared.limits, module) | asked_signatures(writing, module, beam_width)
    save(module, folder, signatures)


def default_signatures(writing: Writing, allowed: Limits, module: WritingModule) -> dict[str, Any]:
    """The concrete functions that take no options: greedy, `writing.most` tokens at most.

    `serving_default`: `text` (N,) -> `output` (N,), the translation, or the text with its continuation, and `log_prob`
    (N,) float32, the sum over the new tokens. `generate_tokens`: `token_ids` (N, T) -> new `token_ids` (N, M), 0 after
    the end, and `log_prob`. `tokens`: the ids of the whole model -> `logits` (N, T, V).
    """
    allowed_ids = Limits(allowed.vocab_size, writing.longest_prompt)

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32, TOKEN_IDS)], autograph=False)
    def generate_tokens(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        decoded = greedy_ids(writing, checked_ids(token_ids, allowed_ids), writing.most)
        return {TOKEN_IDS: decoded.token_ids, "log_prob": decoded.log_prob}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, TEXT)], autograph=False)
    def write(text: tf.Tensor) -> dict[str, tf.Tensor]:
        texts = _texts_read(writing, module, text, writing.most)
        found = generate_tokens(texts.prompts)
        return {"output": _output(module, texts, found[TOKEN_IDS]), "log_prob": found["log_prob"]}

    return {
        DEFAULT: write.get_concrete_function(),
        GENERATE_TOKENS: generate_tokens.get_concrete_function(),
        TOKENS: whole_function(writing),
    }


def asked_signatures(writing: Writing, module: WritingModule, beam_width: int) -> dict[str, Any]:
    """The concrete functions that take `text` (N,) and `max_tokens` (N,) int32, the most tokens that each text gets.

    `generate`, greedy: -> `output` (N,), `log_prob` (N,) float32, and `score` (N,) float32, which is
    log_prob / ((5 + L) / 6)^0.6 of L tokens (eq. 14 of Wu et al. 2016): what a search ranks by. `search`, a beam search
    of `beam_width` W: -> the same of the W best texts, best first, each (N, W).
    """
    asked = [tf.TensorSpec((None,), tf.string, TEXT), tf.TensorSpec((None,), tf.int32, MOST)]

    @tf.function(input_signature=asked, autograph=False)
    def generate(text: tf.Tensor, max_tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        limits = checked_limits(text, max_tokens, writing.most_asked)
        texts = _texts_read(writing, module, text, limits)
        found = greedy_ids(writing, texts.prompts, writing.most_asked, limits)
        score = found.log_prob / length_penalty(tf.math.count_nonzero(found.token_ids, axis=1), ALPHA)
        return {"output": _output(module, texts, found.token_ids), "log_prob": found.log_prob, "score": score}

    @tf.function(input_signature=asked, autograph=False)
    def search(text: tf.Tensor, max_tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        limits = checked_limits(text, max_tokens, writing.most_asked)
        texts = _texts_read(writing, module, text, limits)
        found = found_by_beam(writing, texts.prompts, writing.most_asked, beam_width, limits)
        every = texts._replace(token_ids=tf.repeat(texts.token_ids, beam_width, axis=0))
        output = _output(module, every, tf.reshape(found.token_ids, (-1, writing.most_asked)))  # (N * W,)
        return {"output": tf.reshape(output, (-1, beam_width)), "log_prob": found.log_prob, "score": found.score}

    return {GENERATE: generate.get_concrete_function(), SEARCH: search.get_concrete_function()}


def checked_limits(text: tf.Tensor, max_tokens: tf.Tensor, most: int) -> tf.Tensor:
    """`max_tokens` (N,) as it is, or INVALID_ARGUMENT: one is out of 1..most, or there aren't N of them."""
    lowest, highest, texts = tf.reduce_min(max_tokens), tf.reduce_max(max_tokens), tf.size(text)
    in_range = tf.logical_or(tf.equal(texts, 0), tf.logical_and(lowest >= 1, highest <= most))
    checks = [
        tf.debugging.Assert(
            tf.equal(tf.size(max_tokens), texts),
            [f"{MOST} must have one number for each text; numbers:", tf.size(max_tokens), "texts:", texts],
        ),
        tf.debugging.Assert(in_range, [f"{MOST} must lie in 1..{most}, here they run from", lowest, "to", highest]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(max_tokens)


class _Read(NamedTuple):
    token_ids: tf.Tensor  # (N, T), each text with the end after it
    prompts: tf.Tensor  # (N, P), what the model reads of it
    continues: bool  # whether the output begins with the text


def _texts_read(writing: Writing, module: WritingModule, text: tf.Tensor, most: int | tf.Tensor) -> _Read:
    """The ids of raw texts (N,); a language model leaves room for `most` tokens, of all or (N,) of each."""
    token_ids = module.graph_tokenizer(checked_texts(text))
    if writing.task != LANGUAGE_MODEL:
        return _Read(token_ids, token_ids, continues=False)
    return _Read(token_ids, _last_ids(_begun(token_ids, writing.tokenizer.end_id), writing.max_length - most), True)


def _output(module: WritingModule, read: _Read, new_ids: tf.Tensor) -> tf.Tensor:
    """The texts (N,) that are answered."""
    # The end between a text and its continuation has no letters.
    return module.graph_detokenizer(tf.concat([read.token_ids, new_ids], axis=1) if read.continues else new_ids)


def _begun(token_ids: tf.Tensor, end_id: int) -> tf.Tensor:
    """The end moved from the end of each row to its beginning: a text begins where another one ended."""
    pieces = tf.where(tf.equal(token_ids, end_id), 0, token_ids)
    return tf.pad(pieces, [[0, 0], [1, 0]], constant_values=end_id)[:, :-1]


def _last_ids(token_ids: tf.Tensor, most: int | tf.Tensor) -> tf.Tensor:
    """The last `most` ids, of all or (N,) of each row (N, T), padding at the end not counted; 0 behind them."""
    lengths = tf.math.count_nonzero(token_ids, axis=1, dtype=tf.int32)  # (N,)
    first = tf.expand_dims(tf.maximum(lengths - most, 0), 1)  # (N, 1)
    room = tf.minimum(tf.reduce_max(tf.concat([tf.reshape(most, (-1,)), [1]], axis=0)), tf.shape(token_ids)[1])
    columns = first + tf.range(room)  # (N, P)
    ids = tf.gather(token_ids, tf.minimum(columns, tf.shape(token_ids)[1] - 1), batch_dims=1)
    return tf.where(columns < tf.expand_dims(lengths, 1), ids, 0)
