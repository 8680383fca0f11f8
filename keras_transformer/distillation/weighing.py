"""The one place where losses are weighed: no loss can forget masks, sample weights, unlabelled rows."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.terms import LossTerm, needs_of
from keras_transformer.layers.masks import Tensor


class TermMean(NamedTuple):
    """The weighted mean of one term in one batch."""

    mean: Tensor  # scalar float32: sum(weight * value) / sum(weight), 0 where nothing counts
    count: Tensor  # scalar float32: sum(weight)


def term_mean(
    term: LossTerm, labels: Tensor | None, student: Outputs, teacher: Outputs, sample_weight: Tensor | None
) -> TermMean:
    """Weigh the values of `term` and take their mean.

    A value's weight is the row's sample weight; 0 where the mask hides the token or the student's `counted` leaves it
    out, and 0 for an unlabelled row if the term needs labels.

    Args:
        term: its loss is called once.
        labels: (B,), (B, T) or (B, C); None = no row has a label.
        student: one side.
        teacher: the other.
        sample_weight: (B,) or, for values (B, T), also (B, T); None = 1.

    Raises:
        ValueError: if the loss gives neither (B,) nor (B, T), or the sample weights don't fit its values.
    """
    needs_labels = needs_of(term.loss).labels
    if needs_labels and labels is None:
        return TermMean(ops.zeros(()), ops.zeros(()))
    values = ops.cast(term.loss(labels, student, teacher), "float32")
    if len(values.shape) not in (1, 2):
        raise ValueError(
            f"LossTerm {term.name!r} gave values of shape {tuple(values.shape)}: a loss gives one value a "
            "row, (B,), or a token, (B, T), so that weights and masks can be applied. Leave the mean over "
            "the batch to the Distiller."
        )
    weights = ops.ones_like(values)
    if needs_labels:
        weights = weights * ops.cast(_like(values, labelled(labels)), "float32")
    if len(values.shape) == 2:
        for shown in (shared_mask(student, teacher), student.counted):
            weights = weights if shown is None else weights * ops.cast(shown, "float32")
    if sample_weight is not None:
        weights = weights * _aligned_weights(term, values, ops.cast(sample_weight, "float32"))
    counted = ops.where(weights != 0, values, 0.0)  # 0 * inf would be NaN
    count = ops.stop_gradient(ops.sum(weights))
    return TermMean(ops.divide_no_nan(ops.sum(weights * counted), count), count)


def fixed_weights(terms: Sequence[LossTerm]) -> Callable[[Sequence[TermMean]], list[Tensor]]:
    """Return the function from each term's mean to weight_k * mean_k."""
    return lambda means: [term.weight * value.mean for term, value in zip(terms, means, strict=True)]


def shared_mask(student: Outputs, teacher: Outputs) -> Tensor | None:
    """The student's mask, or the teacher's if it has none: both sides see the same tokens."""
    return teacher.mask if student.mask is None else student.mask


def labelled(labels: Tensor) -> Tensor:
    """True where a label is known: at least 0 among integers, not NaN among floats. Same shape as `labels`."""
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(labels.dtype)):
        return ops.logical_not(ops.isnan(labels))
    return ops.greater_equal(labels, 0)


def _like(values: Tensor, known: Tensor) -> Tensor:
    """Bring per-label flags to the rank of `values`: (B, C) -> (B,) if all are known; (B,) -> (B, 1)."""
    rank = len(values.shape)
    if len(known.shape) > rank:
        return ops.all(known, axis=tuple(range(rank, len(known.shape))))
    return known if len(known.shape) == rank else ops.expand_dims(known, -1)


def _aligned_weights(term: LossTerm, values: Tensor, weights: Tensor) -> Tensor:
    if len(weights.shape) == 2 and weights.shape[-1] == 1:
        weights = ops.squeeze(weights, -1)
    if len(weights.shape) > len(values.shape):
        raise ValueError(
            f"sample_weight has shape {tuple(weights.shape)} and LossTerm {term.name!r} gives one value a "
            f"row, {tuple(values.shape)}: a weight for each token fits only terms that give a value for "
            "each token. Give one weight a row."
        )
    return weights if len(weights.shape) == len(values.shape) else ops.expand_dims(weights, -1)
