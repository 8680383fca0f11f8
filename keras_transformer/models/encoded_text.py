"""BERT's encoder from token ids to hidden states (Devlin et al. 2019, section 3): the trunk of the models that read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_transformer.checks import fraction, positive_integer
from keras_transformer.layers import EncoderLayer, LearnedPositions, SegmentEmbedding, TokenEmbedding
from keras_transformer.layers.encoder import layer_norm
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, ranks_of_parts

EPSILON = 1e-12  # of each LayerNorm of BERT


class EncodedText(NamedTuple):
    """The graph of a trunk: its input, what comes out of it, and the parts that a head needs."""

    token_ids: Tensor  # (B, T) int32, the input
    real: Tensor  # (B, T) bool, True at real tokens
    hidden: Tensor  # (B, T, D), after the final norm where there is one
    taps: dict[str, Tensor]  # `embeddings`, `mask`, `encoder/0/hidden` and so on
    tokens: TokenEmbedding
    head_dim: int


def encoded_text(
    vocab_size: int,
    num_layers: int,
    model_dim: int,
    num_heads: int,
    inner_dim: int,
    *,
    max_length: int,
    embedding_dim: int | None,
    kept_pieces: int | None,
    dropout: float,
    norm_first: bool,
    head_dim: int | None,
    ranks: Mapping[str, Ranks],
    policy: Any,
) -> EncodedText:
    """Build the graph from an input named `token_ids` on; the arguments are those of `TextClassifier`.

    `ranks` are those of each encoder layer, see `ranks_of_text`.

    Raises:
        ValueError: for a number out of range, or heads that don't divide the width.
    """
    fraction("dropout", dropout)
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    real = ops.not_equal(token_ids, 0)  # (B, T)
    tokens = TokenEmbedding(vocab_size, model_dim, embedding_dim, kept_pieces, name="tokens", dtype=policy)
    x = LearnedPositions(max_length, name="positions", dtype=policy)(tokens(token_ids))
    x = SegmentEmbedding(name="segments", dtype=policy)(x)
    x = layer_norm("embeddings_norm", EPSILON, policy)(x)
    taps = {"mask": real, "embeddings": x}
    x = keras.layers.Dropout(dropout, name="embeddings_dropout", dtype=policy)(x)

    options: dict[str, Any] = {"norm_first": norm_first, "epsilon": EPSILON, "head_dim": head_dim, "dtype": policy}
    for index in range(num_layers):
        name = f"encoder_{index}"
        layer = EncoderLayer(model_dim, num_heads, inner_dim, dropout, ranks=ranks[name], name=name, **options)
        encoded = layer(x, attention_mask=real)
        taps |= {f"encoder/{index}/{part}": tensor for part, tensor in encoded._asdict().items()}
        x = encoded.hidden
    if norm_first:
        x = layer_norm("final_norm", EPSILON, policy)(x)
    return EncodedText(token_ids, real, x, taps, tokens, layer.head_dim)


def ranks_of_text(ranks: Ranks | None, num_layers: int, *head: str) -> dict[str, dict[str, int]]:
    """Sort the ranks of a model by its layers: `encoder_0` and so on, and those of its head, in this order.

    Raises:
        ValueError: as `ranks_of_parts`; if `num_layers` isn't a whole number of at least 1.
    """
    positive_integer("num_layers", num_layers)
    return ranks_of_parts(ranks, [*(f"encoder_{index}" for index in range(num_layers)), *head])
