"""Scaled dot-product and multi-head attention (Vaswani et al. 2017, sections 3.2.1 and 3.2.2).

Keys and values may have fewer heads than the queries, G instead of H (Ainslie et al. 2023, section 2.2): query head h
then takes key/value head h // (H / G). G = H is multi-head, G = 1 multi-query attention.
"""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_transformer.checks import fraction, positive_integer
from keras_transformer.layers.blocks import WeightDropout, attention_in_blocks, in_blocks
from keras_transformer.layers.cache import KeyValues
from keras_transformer.layers.fake_quantization import MovingRange
from keras_transformer.layers.integer_policy import IntegerPolicy
from keras_transformer.layers.linear_biases import alibi_biases
from keras_transformer.layers.masks import Tensor, causal_mask, require_boolean, with_head_axis
from keras_transformer.layers.part_ranks import Ranks, dense, ranks_of_parts
from keras_transformer.layers.per_token import as_matrix, leading_lengths
from keras_transformer.layers.scores import MASKED_SCORE, scaled_scores, weighted_values

PRODUCTS = ("query", "key", "value", "output")


class Attended(NamedTuple):
    """What one attention gives: its output, and the parts that a teacher is asked for."""

    context: Tensor  # (B, T, D)
    attention: Tensor | tuple[()]  # (B, H, T, S) weights before dropout, or () where nobody asked for them
    query: Tensor  # (B, H, T, d)
    key: Tensor  # (B, G, S, d)
    value: Tensor  # (B, G, S, d)


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor | None = None, score_bias: Tensor | None = None
) -> Tensor:
    """softmax(Q K^T / sqrt(d) + bias), eq. 1 of Vaswani et al. 2017, computed in float32.

    Args:
        query: (B, H, T, d), any float dtype.
        key: (B, G, S, d), same dtype as `query`; G divides H.
        mask: bool, (B, S), (B, T, S) or broadcastable to (B, 1, T, S); True = may attend. None = everywhere.
        score_bias: float32, broadcastable to (B, H, T, S): ALiBi's. None = 0.

    Returns:
        (B, H, T, S), dtype of `query`. Each row sums to 1, or to 0 where the mask allows no key. The weight of a
        masked key is exactly 0, whatever its score, even NaN; a float16 score that overflowed counts as the largest.

    Raises:
        TypeError: if `mask` isn't boolean.
        ValueError: if the mask's shape doesn't fit.
    """
    scores = scaled_scores(query, key, score_bias)
    if mask is not None:
        mask = with_head_axis(mask, scores.shape)
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
    attend to no key gets a context of zeros before the output projection. A decoder calls the three parts of it,
    `project_query`, `project_memory` and `attend`, so that it can keep the keys and values of a step for the next.

    Args:
        model_dim: width D of the output; a multiple of `num_heads` unless `head_dim` is given.
        num_heads: number of heads H.
        dropout: rate applied to the attention weights while training.
        head_dim: width d of one head; None = D / H. Another one is what remains when heads were cut away.
        num_key_value_heads: number G of key and value heads, a divisor of `num_heads`; None = H.
        ranks: of its factorised dense products, see `part_ranks`: {"query": 32}; None = none.
        block_size: number of keys to attend to at a time, for more keys than that; None = 256 for more than 1024 x 1024
            scores a head. Only where the weights aren't asked for and both lengths are known when the graph is built.

    Raises:
        ValueError: if `model_dim` can't be cut into `num_heads` equal heads, `num_heads` not into equal groups, or a
            number is out of range; if `ranks` names no product.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        ranks: Ranks | None = None,
        block_size: int | None = None,
        **layer_options: Any,
    ) -> None:
        super().__init__(**layer_options)
        positive_integer("model_dim", model_dim)
        positive_integer("num_heads", num_heads)
        if block_size is not None:
            positive_integer("block_size", block_size)
        self.block_size = block_size
        fraction("dropout", dropout)
        if head_dim is None:
            head_dim = _equal_share(model_dim, num_heads)
        positive_integer("head_dim", head_dim)
        self.model_dim, self.num_heads, self.dropout, self.head_dim = model_dim, num_heads, dropout, head_dim
        self.num_key_value_heads = _checked_groups(num_heads, num_key_value_heads)
        self.joined_dim = num_heads * head_dim  # D, unless heads were cut away
        memory_dim = self.num_key_value_heads * head_dim
        self.ranks = dict(ranks) if ranks else None
        part_ranks = ranks_of_parts(ranks, PRODUCTS)
        self.query_proj = dense(self.joined_dim, part_ranks["query"], name="query", dtype=self.dtype_policy)
        self.key_proj = dense(memory_dim, part_ranks["key"], name="key", dtype=self.dtype_policy)
        self.value_proj = dense(memory_dim, part_ranks["value"], name="value", dtype=self.dtype_policy)
        self.output_proj = dense(model_dim, part_ranks["output"], name="output", dtype=self.dtype_policy)
        self.weight_dropout = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)
        self.product_ranges = product_ranges(self.dtype_policy)

    def build(self, query_shape: tuple, memory_shape: tuple) -> None:
        """Make the four projections; query and memory may have widths of their own."""
        self.query_proj.build(query_shape)
        self.key_proj.build(memory_shape)
        self.value_proj.build(memory_shape)
        self.output_proj.build((*query_shape[:-1], self.joined_dim))
        for moving in self.product_ranges:
            moving.build(())

    def call(
        self,
        query: Tensor,
        memory: Tensor,
        *,
        attention_mask: Tensor | None = None,
        with_weights: bool = True,
        training: bool = False,
    ) -> Attended:
        """Attend from each query position to the memory positions that the mask allows."""
        return self.attend(
            self.project_query(query),
            self.project_memory(memory),
            attention_mask=attention_mask,
            with_weights=with_weights,
            training=training,
        )

    def project_query(self, x: Tensor) -> Tensor:
        """(B, T, any width) -> the queries of each head, (B, H, T, d)."""
        return _split_heads(self.query_proj(as_matrix(x)), x, self.num_heads)

    def project_memory(self, x: Tensor) -> KeyValues:
        """(B, S, any width) -> keys and values, (B, G, S, d) each."""
        tokens = as_matrix(x)  # (B * S, D)
        key, value = self.key_proj(tokens), self.value_proj(tokens)  # (B * S, G d)
        heads = self.num_key_value_heads
        return KeyValues(_split_heads(key, x, heads), _split_heads(value, x, heads))

    def attend(
        self,
        query: Tensor,
        memory: KeyValues,
        *,
        attention_mask: Tensor | None = None,
        score_bias: Tensor | None = None,
        causal: bool = False,
        linear_biases: bool = False,
        with_weights: bool = True,
        training: bool = False,
    ) -> Attended:
        """Attend from queries (B, H, T, d) to keys that are there already.

        Args:
            query: (B, H, T, d).
            memory: (B, G, S, d) each.
            attention_mask: as of `attention_weights`.
            score_bias: as of `attention_weights`; with one of these there are no blocks.
            causal: True to add a `causal_mask`, which blocks need not hold at once.
            linear_biases: True to add `alibi_biases`, which blocks need not hold at once.
            with_weights: False where they aren't used: then many keys are attended to in blocks.
            training: True for dropout.
        """
        whole = with_weights or self.product_ranges or score_bias is not None
        if not whole and in_blocks(query.shape[2], memory.key.shape[2], self.block_size):
            context = self._in_blocks(query, memory, attention_mask, causal, linear_biases, training)
            return Attended(self._mixed(context), (), query, *memory)
        if causal:
            attention_mask = _joined(attention_mask, causal_mask(ops.shape(query)[2]))
        if linear_biases:
            biases = alibi_biases(self.num_heads, ops.shape(query)[2], ops.shape(memory.key)[2])
            score_bias = biases if score_bias is None else score_bias + biases
        taken_query, key, value = self._fake_integers((query, *memory), self.product_ranges[:3], training)
        weights = attention_weights(taken_query, key, attention_mask, score_bias)  # (B, H, T, S)
        dropped = self.weight_dropout(weights, training=training)
        (dropped,) = self._fake_integers((dropped,), self.product_ranges[3:], training)
        context = self._mixed(weighted_values(dropped, value))
        return Attended(context, weights if with_weights else (), query, *memory)

    def _in_blocks(
        self,
        query: Tensor,
        memory: KeyValues,
        attention_mask: Tensor | None,
        causal: bool,
        linear_biases: bool,
        training: bool,
    ) -> Tensor:
        """What the weights make of the values, (B, H, T, d)."""
        mask = attention_mask
        if mask is not None:
            mask = with_head_axis(mask, (query.shape[0], self.num_heads, query.shape[2], memory.key.shape[2]))
        dropout = None
        if training and self.dropout > 0:
            generator = self.weight_dropout.seed_generator
            dropout = WeightDropout(self.dropout, generator, generator.next())
        return attention_in_blocks(
            query,
            memory,
            mask,
            block_size=self.block_size,
            causal=causal,
            linear_biases=linear_biases,
            dropout=dropout,
        )

    def attend_beside(
        self,
        query: Tensor,
        memory: KeyValues,
        own: KeyValues,
        *,
        attention_mask: Tensor,
        score_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend from one token of each row to a memory, and to the token's own key and value behind it.

        The same as `attend` to both in one piece, which would have to be copied for it. No dropout.

        Args:
            query: (B, H, 1, d).
            memory: S keys and values of each row.
            own: those of the token itself, (B, G, 1, d).
            attention_mask: of the memory, (B, S) or (B, 1, S) bool; the token always attends to itself.
            score_bias: of the memory's scores, broadcastable to (B, H, 1, S) float32; of the token itself it is 0.

        Returns:
            (B, 1, D).
        """
        known = scaled_scores(query, memory.key, score_bias)
        known = ops.where(with_head_axis(attention_mask, known.shape), known, MASKED_SCORE)
        scores = ops.concatenate([known, scaled_scores(query, own.key)], axis=-1)  # (B, H, 1, S + 1)
        weights = ops.cast(ops.softmax(scores), query.dtype)
        behind = weighted_values(weights[..., :-1], memory.value)  # (B, H, 1, d)
        return self._mixed(behind + weighted_values(weights[..., -1:], own.value))

    def _mixed(self, values: Tensor) -> Tensor:
        """Concat(head_1..head_H) W_O: (B, H, T, d) -> (B, T, D)."""
        context = _swap_heads_and_tokens(values)  # (B, T, H, d)
        mixed = self.output_proj(ops.reshape(context, (-1, self.joined_dim)))  # (B * T, D)
        return ops.reshape(mixed, (*leading_lengths(context)[:2], self.model_dim))

    @staticmethod
    def _fake_integers(parts: tuple[Tensor, ...], ranges: list[MovingRange], training: bool) -> tuple[Tensor, ...]:
        """Each part in its moving range; as it is where there are none."""
        if not ranges:
            return parts
        return tuple(moving(part, training=training) for part, moving in zip(parts, ranges, strict=True))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {
            "model_dim": self.model_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "head_dim": self.head_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "ranks": self.ranks and dict(self.ranks),
            "block_size": self.block_size,
        }
        return {**super().get_config(), **own}


def product_ranges(policy: keras.DTypePolicy) -> list[MovingRange]:
    """Ranges of queries, keys, values and weights; none unless an `IntegerPolicy` asks for the attention's products."""
    if not (isinstance(policy, IntegerPolicy) and policy.attention_products):
        return []
    names = ("query_range", "key_range", "value_range", "weight_range")
    return [MovingRange(policy.momentum, name=name, dtype="float32") for name in names]


def _joined(mask: Tensor | None, causal: Tensor) -> Tensor:
    """Both masks in one: (B, S), (B, T, S) or (B, 1, T, S), and (1, T, T)."""
    if mask is None:
        return causal
    mask = ops.convert_to_tensor(mask)
    require_boolean("attention_mask", mask)
    keys_alone = len(mask.shape) == 2
    return ops.logical_and(ops.expand_dims(mask, 1) if keys_alone else mask, causal)


def _equal_share(model_dim: int, num_heads: int) -> int:
    if model_dim % num_heads:
        raise ValueError(
            f"model_dim={model_dim} can't be cut into num_heads={num_heads} equal heads: "
            f"{model_dim} % {num_heads} = {model_dim % num_heads}. "
            f"Use a num_heads out of {divisors(model_dim)}, "
            f"or model_dim={num_heads * math.ceil(model_dim / num_heads)}."
        )
    return model_dim // num_heads


def _checked_groups(num_heads: int, num_key_value_heads: int | None) -> int:
    groups = num_heads if num_key_value_heads is None else num_key_value_heads
    positive_integer("num_key_value_heads", groups)
    if num_heads % groups:
        raise ValueError(
            f"num_heads={num_heads} can't share num_key_value_heads={groups} equally: "
            f"{num_heads} % {groups} = {num_heads % groups}. Use a num_key_value_heads out of {divisors(num_heads)}."
        )
    return groups


def _split_heads(matrix: Tensor, x: Tensor, num_heads: int) -> Tensor:
    """(B * T, H d), made of `x` (B, T, any width) -> (B, H, T, d)."""
    heads = ops.reshape(matrix, (*leading_lengths(x), num_heads, matrix.shape[-1] // num_heads))
    return _swap_heads_and_tokens(heads)


def _swap_heads_and_tokens(x: Tensor) -> Tensor:
    """(B, T, H, d) <-> (B, H, T, d)."""
    _, first, second, width = x.shape
    if 1 in (first, second) and None not in (first, second):
        # Nothing moves in memory, so the one token of a decoding step costs no transpose.
        return ops.reshape(x, (-1, second, first, width))
    return ops.swapaxes(x, 1, 2)


def divisors(number: int) -> list[int]:
    """All whole numbers that divide `number`, in order: the head counts that fit a width."""
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
