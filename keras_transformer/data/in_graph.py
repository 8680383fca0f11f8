"""Tokenizers by what they are: read from a file, or put into a TensorFlow graph, or refused with a reason."""

from typing import Any

import tensorflow as tf

from keras_transformer.checks import UserError
from keras_transformer.data.graph_reversible import GraphDetokenizer, GraphReversibleTokenizer
from keras_transformer.data.graph_tokenizer import GraphWordPiece
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.tokenizer import WordPiece


def tokenizer_in_graph(tokenizer: Any, max_length: int) -> tf.Module:
    """A module that maps (N,) strings to (N, T) int32 ids as `tokenizer.encode` does.

    Raises:
        UserError: if it is neither of our tokenizers: byte-level BPE, unigram and others can't run in the graph.
    """
    if isinstance(tokenizer, WordPiece):
        return GraphWordPiece(tokenizer, max_length)
    if isinstance(tokenizer, ReversibleTokenizer):
        return GraphReversibleTokenizer(tokenizer, max_length)
    raise _not_in_graph(tokenizer)


def detokenizer_in_graph(tokenizer: Any) -> tf.Module:
    """A module that maps (N, T) int32 ids to (N,) strings as `tokenizer.decode` does.

    Raises:
        UserError: if it isn't a `ReversibleTokenizer`: WordPiece has lost the spaces, others can't run in the graph.
    """
    if isinstance(tokenizer, ReversibleTokenizer):
        return GraphDetokenizer(tokenizer)
    raise _not_in_graph(tokenizer)


def _not_in_graph(tokenizer: Any) -> UserError:
    if isinstance(tokenizer, WordPiece):
        return UserError(
            "the tokenizer is WordPiece, which doesn't keep where spaces were, so ids can't become a text again. "
            "Train with a ReversibleTokenizer, or export without text outputs."
        )
    # A tokenizer of the `tokenizers` library names its kind by its model: BPE, Unigram, WordLevel.
    kind = type(getattr(tokenizer, "model", tokenizer)).__name__
    return UserError(
        f"the tokenizer is of kind {kind}, and only WordPiece and ReversibleTokenizer can run in an exported graph "
        "(byte-level BPE and unigram can't yet). Train with one of these two, or export without text inputs."
    )
