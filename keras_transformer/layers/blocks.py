"""Attention in blocks of keys: memory that grows with the length, not with its square.

The softmax is computed online (Milakov and Gimelshein 2018, algorithm 3): a running maximum and a running sum of each
query, by which what was summed before is rescaled (Rabe and Staats 2021, section 2). The gradients compute the scores
of each block again (their section 3), from the logarithm of that sum; no more than one block's scores are kept.
"""

import math
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_transformer.layers.cache import KeyValues
from keras_transformer.layers.linear_biases import biases_between
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.scores import (
    LARGEST_HALF_SCORE,
    MASKED_SCORE,
    bounded_scores,
    pair_products,
    scaled,
    weighted_rows,
    weighted_values,
)

BLOCK_SIZE = 256
"""Keys in a block unless said otherwise."""

PLAIN_SCORES = 1024 * 1024
"""Queries times keys of a head up to which all scores at once cost less time, and little memory."""


@dataclass(frozen=True)
class WeightDropout:
    """Dropout of attention weights that can be drawn again: block by block, from one seed.

    Attributes:
        rate: share of the weights that become 0.
        generator: whose stream is used; it isn't moved.
        seed: (2,), what `generator` gave for this call.
    """

    rate: float
    generator: keras.random.SeedGenerator
    seed: Tensor

    def factors(self, like: Tensor, turn: Tensor) -> Tensor:
        """0 or 1 / (1 - rate) for each weight of block number `turn`, the same each time: float32, shape of `like`."""
        step = ops.cast(ops.stack([turn, ops.zeros_like(turn)]), self.seed.dtype)
        with keras.StatelessScope([(self.generator.state, self.seed + step)]):
            drawn = keras.random.uniform(ops.shape(like), dtype="float32", seed=self.generator)
        return ops.where(drawn >= self.rate, 1.0 / (1.0 - self.rate), 0.0)


@dataclass(frozen=True)
class _Blocks:
    """How the keys are cut, and which of them a query may see."""

    size: int
    count: int
    num_keys: int  # those behind them, up to size * count, are made up
    masks: Tensor | None  # bool, (count or 1, B or 1, H or 1, T or 1, size or 1)
    causal: bool
    linear_biases: bool
    dropout: WeightDropout | None

    def cut(self, x: Tensor) -> Tensor:
        """(B, G, S, d) -> (count, B, G, size, d), with zeros at the end."""
        padded = ops.pad(x, ((0, 0), (0, 0), (0, self.count * self.size - self.num_keys), (0, 0)))
        _, heads, _, width = x.shape
        return ops.moveaxis(ops.reshape(padded, (-1, heads, self.count, self.size, width)), 2, 0)

    def joined(self, blocks: Tensor) -> Tensor:
        """Undo `cut`."""
        _, _, heads, _, width = blocks.shape
        joined = ops.reshape(ops.moveaxis(blocks, 0, 2), (-1, heads, self.count * self.size, width))
        return joined[:, :, : self.num_keys]

    def scores(self, scaled_query: Tensor, key_block: Tensor, turn: Tensor) -> tuple[Tensor, Tensor | None]:
        """Masked scores (B, H, T, size) float32 of a block, and 1 where they count and 0 elsewhere; None = all do."""
        scores = bounded_scores(scaled_query, key_block)
        queries = ops.arange(scores.shape[2], dtype="int32")
        keys = turn * self.size + ops.arange(self.size, dtype="int32")
        if self.linear_biases:
            scores = scores + biases_between(scores.shape[1], queries, keys)
        allowed = self._allowed(queries, keys, turn)
        if allowed is None:
            return scores, None
        return ops.where(allowed, scores, MASKED_SCORE), ops.cast(allowed, "float32")

    def _allowed(self, queries: Tensor, keys: Tensor, turn: Tensor) -> Tensor | None:
        found = []
        if self.masks is not None:
            found.append(ops.take(self.masks, turn if self.masks.shape[0] != 1 else 0, axis=0))
        if self.causal:
            found.append(ops.expand_dims(queries, 1) >= keys)  # (T, size); the made-up keys are behind all queries
        elif self.count * self.size != self.num_keys:
            found.append(keys < self.num_keys)
        if len(found) == 2:
            return ops.logical_and(*found)
        return found[0] if found else None


def in_blocks(num_queries: int | None, num_keys: int | None, block_size: int | None) -> bool:
    """Whether attention is to go in blocks: by lengths known when the graph is built, so that an export never does.

    With a `block_size`, where there are more keys than that; else where there are more scores than `PLAIN_SCORES`.
    """
    if num_queries is None or num_keys is None:
        return False
    return num_queries * num_keys > PLAIN_SCORES if block_size is None else num_keys > block_size


def attention_in_blocks(
    query: Tensor,
    memory: KeyValues,
    mask: Tensor | None = None,
    *,
    block_size: int | None = None,
    causal: bool = False,
    linear_biases: bool = False,
    dropout: WeightDropout | None = None,
) -> Tensor:
    """softmax(Q K^T / sqrt(d) + bias) V, eq. 1 of Vaswani et al. 2017, with no more than T x block_size scores a head.

    Args:
        query: (B, H, T, d), any float dtype; T is known.
        memory: keys and values, (B, G, S, d) each; S is known and G divides H.
        mask: bool, (B or 1, H or 1, T or 1, S or 1), see `with_head_axis`; True = may attend. None = everywhere.
        block_size: keys in a block, at most; None = `BLOCK_SIZE`.
        causal: True to let query t see keys up to t, without a mask of T x S.
        linear_biases: True to add `alibi_biases` to the scores.
        dropout: of the weights; None = none.

    Returns:
        (B, H, T, d), dtype of `query`; a row that may see no key is 0.
    """
    num_keys = memory.key.shape[2]
    count = math.ceil(num_keys / (block_size or BLOCK_SIZE))
    size = math.ceil(num_keys / count)
    masks = None if mask is None else _cut_mask(mask, count, size)
    blocks = _Blocks(size, count, num_keys, masks, causal, linear_biases, dropout)

    @ops.custom_gradient
    def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Any]:
        context, log_total = _forward(blocks, query, key, value)

        def gradients(*upstreams: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, ...]:
            (given,) = upstreams or (upstream,)
            return _backward(blocks, query, key, value, context, log_total, given)

        return ops.cast(context, query.dtype), gradients

    return attend(query, memory.key, memory.value)


def _cut_mask(mask: Tensor, count: int, size: int) -> Tensor:
    """(b, h, t, S or 1) -> (count or 1, b, h, t, size or 1); made-up keys are hidden."""
    num_keys = mask.shape[3]
    if num_keys == 1:
        return ops.expand_dims(mask, 0)
    padded = ops.pad(mask, ((0, 0), (0, 0), (0, 0), (0, count * size - num_keys)), constant_values=False)
    return ops.moveaxis(ops.reshape(padded, (-1, *mask.shape[1:3], count, size)), 3, 0)


def _forward(blocks: _Blocks, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Context (B, H, T, d) and the logarithm of each softmax's denominator (B, H, T, 1), both float32."""
    scaled_query, keys, values = scaled(query), blocks.cut(key), blocks.cut(value)
    context = ops.cast(ops.zeros_like(query), "float32")
    total = context[..., :1]

    def add_block(turn: Tensor, largest: Tensor, total: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        scores, counted = blocks.scores(scaled_query, ops.take(keys, turn, axis=0), turn)
        grown = ops.maximum(largest, ops.max(scores, axis=-1, keepdims=True))
        shrink, weights = ops.exp(largest - grown), ops.exp(scores - grown)
        if counted is not None:
            weights = weights * counted  # a row with no key stays 0, not uniform
        total = total * shrink + ops.sum(weights, axis=-1, keepdims=True)
        if blocks.dropout is not None:
            weights = weights * blocks.dropout.factors(weights, turn)
        found = weighted_values(ops.cast(weights, query.dtype), ops.take(values, turn, axis=0))
        context = context * shrink + ops.cast(found, "float32")
        return _next(turn, context), grown, total, context

    start = (ops.convert_to_tensor(0, "int32"), total + MASKED_SCORE, total, context)
    _, largest, total, context = ops.while_loop(lambda turn, *_: turn < blocks.count, add_block, start)
    total = ops.where(total > 0, total, 1.0)
    return context / total, largest + ops.log(total)


def _backward(
    blocks: _Blocks,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    context: Tensor,
    log_total: Tensor,
    upstream: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of query, key and value: with weights P and their gradient R, that of the scores is P (R - sum P R)."""
    scaled_query, keys, values, dtype = scaled(query), blocks.cut(key), blocks.cut(value), query.dtype
    common = ops.sum(ops.cast(upstream, "float32") * context, axis=-1, keepdims=True)  # (B, H, T, 1): sum P R
    half = keras.backend.standardize_dtype(dtype) == "float16"

    def add_block(turn: Tensor, to_query: Tensor, to_keys: Tensor, to_values: Tensor) -> tuple[Tensor, ...]:
        key_block, value_block = ops.take(keys, turn, axis=0), ops.take(values, turn, axis=0)
        scores, counted = blocks.scores(scaled_query, key_block, turn)
        weights = ops.exp(scores - log_total)
        if counted is not None:
            weights = weights * counted
        kept, to_weights = weights, ops.cast(pair_products(upstream, value_block), "float32")
        if blocks.dropout is not None:
            factors = blocks.dropout.factors(weights, turn)
            kept, to_weights = weights * factors, to_weights * factors
        to_scores = weights * (to_weights - common)
        if half:
            to_scores = ops.where(ops.abs(scores) < LARGEST_HALF_SCORE, to_scores, 0.0)  # of what was clipped
        to_scores = ops.cast(to_scores, dtype)
        to_query = to_query + ops.cast(weighted_values(to_scores, key_block), "float32")
        to_key = weighted_rows(to_scores, scaled_query, key.shape[1])
        to_value = weighted_rows(ops.cast(kept, dtype), upstream, value.shape[1])
        # Each turn puts its block behind the others: after all turns they are in order.
        to_keys, to_values = _pushed(to_keys, to_key), _pushed(to_values, to_value)
        return _next(turn, to_query), to_query, to_keys, to_values

    zero = ops.convert_to_tensor(0, "int32")
    start = (zero, ops.zeros_like(context), ops.zeros_like(keys), ops.zeros_like(values))
    _, to_query, to_keys, to_values = ops.while_loop(lambda turn, *_: turn < blocks.count, add_block, start)
    to_query = scaled(ops.cast(to_query, dtype))
    return to_query, blocks.joined(to_keys), blocks.joined(to_values)


def _pushed(blocks: Tensor, last: Tensor) -> Tensor:
    """The blocks without the first one, and `last` behind them."""
    return ops.concatenate([blocks[1:], ops.expand_dims(last, 0)], axis=0)


def _next(turn: Tensor, done: Tensor) -> Tensor:
    """turn + 1, known only when `done` is: else TensorFlow begins ten turns at once and keeps the scores of each."""
    return turn + 1 + ops.cast(ops.sum(done[..., :0]), "int32")
