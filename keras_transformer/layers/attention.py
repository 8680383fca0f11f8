"""Scaled dot-product and multi-head attention (Vaswani et al. 2017, sections 3.2.1 and 3.2.2)."""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_transformer.checks import fraction, positive_integer
from keras_transformer.layers.masks import Tensor, with_head_axis
from keras_transformer.layers.per_token import as_matrix, leading_lengths

MASKED_SCORE, LARGEST_HALF_SCORE = -3e38, 1e30
"""What a masked score becomes: below all others, finite, so that no row is NaN; and the bound of a float16 one."""


class Attended(NamedTuple):
    """What one attention gives: its output, and the parts that a teacher is asked for."""

    context: Tensor  # (B, T, D)
    attention: Tensor  # (B, H, T, S) weights before dropout
    query: Tensor  # (B, H, T, d)
    key: Tensor  # (B, H, S, d)
    value: Tensor  # (B, H, S, d)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)), eq. 1 of Vaswani et al. 2017, computed in float32.

    Args:
        query: (B, H, T, d), any float dtype.
        key: (B, H, S, d), same dtype as `query`.
        mask: bool, (B, S), (B, T, S) or broadcastable to (B, 1, T, S); True = may attend. None = everywhere.

    Returns:
        (B, H, T, S), dtype of `query`. Each row sums to 1, or to 0 where the mask allows no key. The weight of a
        masked key is exactly 0, whatever its score, even NaN; a float16 score that overflowed counts as the largest.

    Raises:
        TypeError: if `mask` isn't boolean.
        ValueError: if the mask's shape doesn't fit.
    """
    # Scaling the query touches T * d numbers, scaling the scores T * S.
    scaled = query * ops.cast(1.0 / math.sqrt(query.shape[-1]), query.dtype)
    scores = ops.cast(ops.matmul(scaled, ops.swapaxes(key, -1, -2)), "float32")  # (B, H, T, S)
    if keras.backend.standardize_dtype(query.dtype) == "float16":
        # A product above 65504 is infinite there, and a row of infinities would be NaN.
        scores = ops.clip(scores, -LARGEST_HALF_SCORE, LARGEST_HALF_SCORE)
    if mask is not None:
        mask = with_head_axis(mask, scores)
        scores = ops.where(mask, scores, MASKED_SCORE)
    # A lone key gets weight 1; Keras warns of a softmax over one.
    weights = ops.exp(scores - scores) if scores.shape[-1] == 1 else ops.softmax(scores)
    if mask is not None:
        weights = weights * ops.cast(mask, "float32")  # a row with no key stays 0, not uniform
    return ops.cast(weights, query.dtype)


@keras.saving.register_keras_serializable("keras_transformer")
class MultiHeadAttention(keras.layers.Layer):
    """Concat(head_1..head_H) W_O with head_i = Attention(Q W_i, K W_i, V W_i): Vaswani et al. 2017, section 3.2.2.

    Call it with `query` (B, T, D) and `memory` (B, S, D); the same tensor twice is self-attention. A query that may
    attend to no key gets a context of zeros before the output projection.

    Args:
        model_dim: width D of the output; a multiple of `num_heads` unless `head_dim` is given.
        num_heads: number of heads H.
        dropout: rate applied to the attention weights while training.
        head_dim: width d of one head; None = D / H. Another one is what remains when heads were cut away.

    Raises:
        ValueError: if `model_dim` can't be cut into `num_heads` equal heads, or a number is out of range.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        head_dim: int | None = None,
        **layer_options: Any,
    ) -> None:
        super().__init__(**layer_options)
        positive_integer("model_dim", model_dim)
        positive_integer("num_heads", num_heads)
        fraction("dropout", dropout)
        if head_dim is None:
            head_dim = _equal_share(model_dim, num_heads)
        positive_integer("head_dim", head_dim)
        self.model_dim, self.num_heads, self.dropout, self.head_dim = model_dim, num_heads, dropout, head_dim
        self.joined_dim = num_heads * head_dim  # D, unless heads were cut away
        self.query_proj = keras.layers.Dense(self.joined_dim, name="query", dtype=self.dtype_policy)
        self.key_proj = keras.layers.Dense(self.joined_dim, name="key", dtype=self.dtype_policy)
        self.value_proj = keras.layers.Dense(self.joined_dim, name="value", dtype=self.dtype_policy)
        self.output_proj = keras.layers.Dense(model_dim, name="output", dtype=self.dtype_policy)
        self.weight_dropout = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)

    def build(self, query_shape: tuple, memory_shape: tuple) -> None:
        """Make the four projections; query and memory may have widths of their own."""
        self.query_proj.build(query_shape)
        self.key_proj.build(memory_shape)
        self.value_proj.build(memory_shape)
        self.output_proj.build((*query_shape[:-1], self.joined_dim))

    def call(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        attention_mask: Tensor | None = None,
        training: bool = False,
    ) -> Attended:
        """Attend from each query position to the memory positions that the mask allows."""
        tokens = as_matrix(query)  # (B * T, D)
        remembered = tokens if memory is query else as_matrix(memory)  # (B * S, D)
        q = self._split_heads(self.query_proj(tokens), query)  # (B, H, T, d)
        k = self._split_heads(self.key_proj(remembered), memory)  # (B, H, S, d)
        v = self._split_heads(self.value_proj(remembered), memory)  # (B, H, S, d)
        weights = attention_weights(q, k, attention_mask)  # (B, H, T, S)
        dropped = self.weight_dropout(weights, training=training)
        context = ops.swapaxes(ops.matmul(dropped, v), 1, 2)  # (B, T, H, d)
        mixed = self.output_proj(ops.reshape(context, (-1, self.joined_dim)))  # (B * T, D)
        return Attended(ops.reshape(mixed, (*leading_lengths(query), self.model_dim)), weights, q, k, v)

    def _split_heads(self, matrix: Tensor, x: Tensor) -> Tensor:
        """(B * T, H d), made of `x` (B, T, any width) -> (B, H, T, d)."""
        heads = ops.reshape(matrix, (*leading_lengths(x), self.num_heads, self.head_dim))
        return ops.swapaxes(heads, 1, 2)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {
            "model_dim": self.model_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "head_dim": self.head_dim,
        }
        return {**super().get_config(), **own}


def _equal_share(model_dim: int, num_heads: int) -> int:
    if model_dim % num_heads:
        raise ValueError(
            f"model_dim={model_dim} can't be cut into num_heads={num_heads} equal heads: "
            f"{model_dim} % {num_heads} = {model_dim % num_heads}. "
            f"Use a num_heads out of {divisors(model_dim)}, "
            f"or model_dim={num_heads * math.ceil(model_dim / num_heads)}."
        )
    return model_dim // num_heads


def divisors(number: int) -> list[int]:
    """All whole numbers that divide `number`, in order: the head counts that fit a width."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
