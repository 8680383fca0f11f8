"""Losses on logits: (labels, student, teacher) -> one value a row or token; `terms` has the contract."""

from collections.abc import Callable

import keras
from keras import ops

from keras_transformer.checks import positive
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.terms import Loss, needing
from keras_transformer.layers.masks import Tensor

SERIES_RADIUS = 0.25
"""Where exp(r) - 1 - r is a five-term series: its rest stays below float32's rounding there."""


@needing(labels=True)
def true_labels(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
    """Cross-entropy -log softmax(student logits)[label], in float32. The teacher isn't looked at.

    Args:
        labels: (B,) or (B, T) integers in 0..C-1; below 0, such as -1 or -100, = unlabelled: its value means nothing
            and is left out.
        student: logits (B, C) or (B, T, C).
        teacher: unused.

    Returns:
        (B,) or (B, T) float32, at least 0.

    Raises:
        ValueError: if the labels aren't integers, or not of the logits' shape without its last axis.
    """
    logits = ops.cast(student.logits, "float32")
    _check_labels(labels, logits)
    known = ops.maximum(labels, 0)  # the kernel takes no negative class; those rows get weight 0
    return ops.sparse_categorical_crossentropy(known, logits, from_logits=True)


def soft_targets(temperature: float | keras.Variable) -> Loss:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)): Hinton et al. 2015, section 2.

    The factor T^2 keeps the size of the gradient about the same whatever T. In float32: within 1e-3 of the
    exact value for T from 0.5 to 1e4 and logits to +-80, never below 0, exactly 0 for equal logits; at most
    1e-9 where XLA compiles it, or where one side is shifted by up to 100: that is the rounding of the shift.

    Args:
        temperature: T, above 0. A `keras.Variable` can be changed by a callback while `fit` runs.

    Returns:
        A loss; its value has shape (B,) for logits (B, C) and (B, T) for (B, T, V).

    Raises:
        ValueError: if T isn't above 0; the loss, if student and teacher have not the same number of classes.
    """
    positive("temperature", temperature)

    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        check_same_classes(student.logits, teacher.logits)
        target = ops.cast(teacher.logits, "float32") / temperature
        guess = ops.cast(student.logits, "float32") / temperature
        return temperature**2 * kl_divergence(target, guess)

    return loss


def kl_divergence(target: Tensor, guess: Tensor) -> Tensor:
    """KL(p || q) = sum_i p_i (log p_i - log q_i), with p = softmax(target) and q = softmax(guess).

    Summed as sum_i p_i f(log q_i - log p_i) with f(r) = exp(r) - 1 - r, which is the same number because p
    and q both sum to 1, but has no negative part. The textbook sum loses the small difference of two
    log-probabilities to rounding; at T = 1e4 it is wrong by a factor of 100.

    Args:
        target: float32 logits (..., C); the gradient flows to both arguments.
        guess: float32 logits (..., C).

    Returns:
        (...) float32, at least 0.
    """
    return _divergence(target, guess)


@ops.custom_gradient
def _divergence(target: Tensor, guess: Tensor) -> tuple[Tensor, Callable[..., tuple[Tensor, Tensor]]]:
    """The value, and its gradients by hand: q - p for the guess, p (log p - log q - KL) for the target.

    What they are made of is known from the value already: of a large vocabulary each pass over it counts. Both sum to
    0 over the classes, and are made to: `ratio` is off by a rounding that all classes of a row share.
    """
    log_p = ops.log_softmax(target)
    p = ops.exp(log_p)
    ratio = guess - target  # log q - log p, up to one number a row
    ratio = ratio - ops.sum(p * ratio, axis=-1, keepdims=True)  # near that number: what is left to subtract is small
    ratio = ratio - (_log_sum_exp(log_p + ratio) - _log_sum_exp(log_p))
    near = ops.abs(ratio) < SERIES_RADIUS
    r = ops.where(near, ratio, 0.0)  # keeps the branch not taken finite
    series = r * r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r / 720))))
    far = ops.exp(log_p + ratio) - p  # q - p, which is rounding where they are near
    value = ops.sum(ops.where(near, p * series, far - p * ratio), axis=-1)

    def gradients(*given: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight = ops.expand_dims(given[0] if upstream is None else upstream, -1)
        apart = ops.where(near, p * (r + series), far)
        apart = apart - p * ops.sum(apart, axis=-1, keepdims=True)
        surprise = ops.sum(p * ratio, axis=-1, keepdims=True) - ratio
        return weight * p * surprise, weight * apart

    return value, gradients


def _log_sum_exp(x: Tensor) -> Tensor:
    return ops.logsumexp(x, axis=-1, keepdims=True)


def _check_labels(labels: Tensor, logits: Tensor) -> None:
    if not keras.backend.is_int_dtype(keras.backend.standardize_dtype(labels.dtype)):
        raise ValueError(
            f"labels have dtype {labels.dtype}: true_labels takes class numbers as integers, below 0 "
            "= unlabelled. Use labels.astype('int32'); of one-hot labels take argmax(axis=-1)."
        )
    if len(labels.shape) != len(logits.shape) - 1:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and the student's logits {tuple(logits.shape)}: "
            "labels need the logits' shape without its last axis, (B,) for (B, C) or (B, T) for (B, T, V). "
            "Reshape the labels."
        )


def check_same_classes(student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError unless logits (..., C) of both sides have the same number of classes."""
    if len(student.shape) != len(teacher.shape) or student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"The student's logits {tuple(student.shape)} and the teacher's {tuple(teacher.shape)} can't be "
            "compared: soft_targets needs the same classes in the same order on both sides. Give the "
            f"student {teacher.shape[-1]} classes, or leave soft_targets out; of a teacher cached with top_k use "
            "top_k_soft_targets."
        )
