"""Scores between the tokens of one text, and how far two sets of them are apart over the real keys."""

import math

from keras import ops

from keras_transformer.distillation.losses import kl_divergence
from keras_transformer.distillation.uncounted import at_real_tokens
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.scores import MASKED_SCORE


def real_keys(mask: Tensor) -> Tensor:
    """True at keys that are tokens: the mask (B, S) as (B, 1, 1, S), against scores (B, H, T, S)."""
    return ops.expand_dims(ops.expand_dims(mask, 1), 1)


def real_queries(mask: Tensor) -> Tensor:
    """True at queries that are tokens: the mask (B, T) as (B, 1, T, 1), against scores (B, H, T, S)."""
    return ops.expand_dims(ops.expand_dims(mask, 1), -1)


def scaled_scores(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Q K^T / sqrt(d) in float32: (B, H, T, d) and (B, H, S, d) -> (B, H, T, S), finite at masked tokens."""
    query, key = (at_real_tokens(ops.cast(part, "float32"), mask) for part in (query, key))
    # Scaling the query touches T * d numbers, scaling the scores T * S.
    return ops.matmul(query * (1.0 / math.sqrt(query.shape[-1])), ops.swapaxes(key, -1, -2))


def mean_over_keys(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (B, H, T, S) over the real keys of the mask (B, S) -> (B, H, T); 0 where a text has none."""
    if mask is None:
        return ops.mean(values, axis=-1)
    real = real_keys(mask)
    count = ops.sum(ops.cast(real, "float32"), axis=-1)  # (B, 1, 1)
    return ops.sum(ops.where(real, values, 0.0), axis=-1) / ops.maximum(count, 1.0)


def divergence_over_keys(teacher: Tensor, student: Tensor, mask: Tensor | None) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of scores (B, H, T, S) over the real keys -> (B, H, T) float32.

    Exactly 0 for equal scores, and where a text has no key.
    """
    if mask is not None:
        real = real_keys(mask)
        # The same on both sides and exp() of it is 0: a masked key adds exactly nothing.
        teacher, student = (ops.where(real, scores, MASKED_SCORE) for scores in (teacher, student))
    return kl_divergence(teacher, student)
