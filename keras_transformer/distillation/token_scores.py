"""Scores between the tokens of one text, and how far two sets of them are apart over the real keys."""

import math

from keras import ops

from keras_transformer.distillation.losses import kl_divergence
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.weighing import shared_mask
from keras_transformer.layers.attention import MASKED_SCORE
from keras_transformer.layers.masks import Tensor


def real_keys(student: Outputs, teacher: Outputs) -> Tensor | None:
    """True at keys that are tokens: the mask as (B, 1, 1, S), against scores (B, H, T, S); None = all are."""
    mask = shared_mask(student, teacher)
    return None if mask is None else ops.expand_dims(ops.expand_dims(mask, 1), 1)


def scaled_scores(query: Tensor, key: Tensor) -> Tensor:
    """Q K^T / sqrt(d) in float32: (B, H, T, d) and (B, H, S, d) -> (B, H, T, S)."""
    query, key = (ops.cast(part, "float32") for part in (query, key))
    # Scaling the query touches T * d numbers, scaling the scores T * S.
    return ops.matmul(query * (1.0 / math.sqrt(query.shape[-1])), ops.swapaxes(key, -1, -2))


def mean_over_keys(values: Tensor, real: Tensor | None) -> Tensor:
    """Mean of (B, H, T, S) over the real keys -> (B, H, T); 0 where a text has none."""
    if real is None:
        return ops.mean(values, axis=-1)
    count = ops.sum(ops.cast(real, "float32"), axis=-1)  # (B, 1, 1)
    return ops.sum(ops.where(real, values, 0.0), axis=-1) / ops.maximum(count, 1.0)


def divergence_over_keys(teacher: Tensor, student: Tensor, real: Tensor | None) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of scores (B, H, T, S) over the real keys -> (B, H, T) float32.

    Exactly 0 for equal scores, and where a text has no key.
    """
    if real is not None:
        # The same on both sides and exp() of it is 0: a masked key adds exactly nothing.
        teacher, student = (ops.where(real, scores, MASKED_SCORE) for scores in (teacher, student))
    return kl_divergence(teacher, student)
