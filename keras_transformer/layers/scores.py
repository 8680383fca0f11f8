"""Products of queries, keys and values, whose heads may be fewer than the queries': the steps of any attention."""

import math

import keras
from keras import ops

from keras_transformer.layers.masks import Tensor

MASKED_SCORE, LARGEST_HALF_SCORE = -3e38, 1e30
"""What a masked score becomes: below all others, finite, so that no row is NaN; and the bound of a float16 one."""


def scaled_scores(query: Tensor, key: Tensor, score_bias: Tensor | None = None) -> Tensor:
    """Q K^T / sqrt(d) + bias: (B, H, T, d) and (B, G, S, d) -> (B, H, T, S) float32."""
    scores = bounded_scores(scaled(query), key)
    return scores if score_bias is None else scores + ops.cast(score_bias, "float32")


def scaled(query: Tensor) -> Tensor:
    """Q / sqrt(d): scaling the query touches T * d numbers, scaling the scores T * S."""
    return query * ops.cast(1.0 / math.sqrt(query.shape[-1]), query.dtype)


def bounded_scores(scaled_query: Tensor, key: Tensor) -> Tensor:
    """Q K^T of a query that is scaled already, in float32 and finite if the inputs are: (B, H, T, S)."""
    scores = ops.cast(pair_products(scaled_query, key), "float32")
    if keras.backend.standardize_dtype(scaled_query.dtype) == "float16":
        # A product above 65504 is infinite there, and a row of infinities would be NaN.
        scores = ops.clip(scores, -LARGEST_HALF_SCORE, LARGEST_HALF_SCORE)
    return scores


def pair_products(rows: Tensor, columns: Tensor) -> Tensor:
    """Each row times each column of its group: (B, H, T, d) and (B, G, S, d) -> (B, H, T, S)."""
    grouped = with_heads(rows, columns.shape[1])  # (B, G, H / G * T, d)
    return with_heads(ops.matmul(grouped, ops.swapaxes(columns, -1, -2)), rows.shape[1])


def weighted_values(weights: Tensor, value: Tensor) -> Tensor:
    """Sum over the keys of weight times value: (B, H, T, S) and (B, G, S, d) -> (B, H, T, d)."""
    grouped = with_heads(weights, value.shape[1])  # (B, G, H / G * T, S)
    return with_heads(ops.matmul(grouped, value), weights.shape[1])


def weighted_rows(weights: Tensor, rows: Tensor, num_groups: int) -> Tensor:
    """Sum over a group's queries of weight times row: (B, H, T, S) and (B, H, T, d) -> (B, G, S, d)."""
    grouped = ops.swapaxes(with_heads(weights, num_groups), -1, -2)  # (B, G, S, H / G * T)
    return ops.matmul(grouped, with_heads(rows, num_groups))


def with_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, a, b, n) -> (B, num_heads, a b / num_heads, n): neighbouring heads become rows of one, and back."""
    batch, heads, rows, last = x.shape
    if heads == num_heads:
        return x
    wanted = [batch, num_heads, None if rows is None else heads * rows // num_heads, last]
    if wanted.count(None) > 1:
        known = ops.shape(x)
        wanted = [known[0], num_heads, wanted[2], known[3]]
    return ops.reshape(x, tuple(-1 if length is None else length for length in wanted))
