"""Losses on one vector a text or picture (tap "pooled") that look at how the rows of a batch lie to each other.

A row's value depends on all rows of the batch. The Distiller's weights - sample weights, rows left out - weigh the
rows' values; as the other end of a pair each row of the batch counts fully, even with weight 0. Over the replicas
of a strategy a row meets those of its own replica.
"""

from functools import partial

import keras
from keras import ops

from keras_transformer.checks import positive
from keras_transformer.distillation.feature_losses import FeatureLoss
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.tap_pairs import TapPair, checked_pairs, paired, refuse_padded_maps
from keras_transformer.distillation.terms import Loss, needing
from keras_transformer.distillation.unit_vectors import unit_vectors
from keras_transformer.layers.masks import Tensor


def similarity_preserving(student_tap: str = "pooled", teacher_tap: str = "pooled") -> Loss:
    """1/B sum_j (G_s - G_t)_ij^2, G = Q Q^T with rows of length 1: Tung & Mori 2019, eq. 1 to 4, row i of B.

    The mean over the rows is their 1/B^2 ||G_s - G_t||_F^2. Q has a row of features for each row of the batch, so
    widths may differ and there is nothing to project. In float32; exactly 0 where both sides are equal.

    Args:
        student_tap: (B, D), or feature maps (B, height, width, channels), which are laid out as one row.
        teacher_tap: the same, of any size.

    Returns:
        A loss that gives (B,).

    Raises:
        ValueError: the loss, for taps of another rank: of tokens (B, T, D) take a pooled vector. For feature maps
            where a side has a padding mask.
    """
    (pair,) = checked_pairs([(student_tap, teacher_tap)])

    @needing(student_taps=[student_tap], teacher_taps=[teacher_tap])
    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        refuse_padded_maps(pair, student, teacher)
        ours, theirs = (_similarities(pair, side) for side in paired(pair, student.taps, teacher.taps))
        return ops.mean(ops.square(ours - theirs), axis=-1)

    return loss


def contrastive(
    student_tap: str = "pooled", teacher_tap: str = "pooled", *, temperature: float | keras.Variable = 0.1
) -> FeatureLoss:
    """-log [exp(cos_ii / T) / sum_j exp(cos_ij / T)], cos_ij = cos(student row i W, teacher row j); (B,).

    InfoNCE (van den Oord et al. 2018, eq. 4) between the two models as in CRD (Tian et al. 2020), with the other
    rows of the batch as negatives in place of CRD's memory of the whole data set. No distance: it is above 0 where
    the sides are equal, and 0 for a batch of one row, which has no negatives.

    A sample weight weighs row i as the one that is sought; as a negative a row counts fully, even with weight 0.
    Over replicas the negatives are those of the replica. Two equal texts in a batch are pushed apart.

    Args:
        student_tap: (B, D).
        teacher_tap: (B, D'); where D' isn't D, W is learned.
        temperature: T, above 0. A `keras.Variable` isn't trained, and can be changed by a callback while `fit` runs.
    """
    positive("temperature", temperature, example=0.1)
    distance = partial(_contrast, temperature=temperature)
    return FeatureLoss([(student_tap, teacher_tap)], distance, name="contrastive")


def _contrast(student: Tensor, teacher: Tensor, temperature: float | keras.Variable) -> Tensor:
    if len(student.shape) != 2:
        raise ValueError(
            f"contrastive compares rows and got a tap of shape {tuple(student.shape)}. Name a pooled vector (B, D)."
        )
    cosines = ops.matmul(unit_vectors(student), ops.transpose(unit_vectors(teacher)))  # (B, B)
    scores = cosines / temperature
    return ops.logsumexp(scores, axis=-1) - ops.diagonal(scores)


def _similarities(pair: TapPair, features: Tensor) -> Tensor:
    """(B, ...) -> (B, B) inner products of the rows of features, each row brought to length 1."""
    if len(features.shape) not in (2, 4):
        raise ValueError(
            f"similarity_preserving compares rows and a tap of {pair} has shape {tuple(features.shape)}. "
            "Name a pooled vector (B, D) or a feature map (B, height, width, channels)."
        )
    rows = ops.reshape(ops.cast(features, "float32"), (ops.shape(features)[0], -1))
    # One factor for all rows changes no direction, hence no gradient; it keeps tiny features off the zero test.
    largest = ops.stop_gradient(ops.max(ops.abs(rows)))
    rows = rows / ops.where(largest > 0, largest, 1.0)
    return unit_vectors(ops.matmul(rows, ops.transpose(rows)))
