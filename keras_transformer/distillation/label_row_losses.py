"""Losses of models with a number for each of several labels or values: multi-label classes, and regression.

The forms with a 0 or 1 for each class take the classes as independent Bernoulli variables, so one model of C
logits is C binary classifiers; those with values take the logits as they are.
"""

import keras
from keras import ops

from keras_transformer.checks import positive
from keras_transformer.distillation.losses import kl_divergence
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.terms import Loss, needing
from keras_transformer.distillation.uncounted import at_real_tokens
from keras_transformer.distillation.weighing import labelled, shared_mask
from keras_transformer.layers.masks import Tensor


@needing(labels=True)
def true_multi_labels(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
    """-sum_c [y_c log sigmoid(z_c) + (1 - y_c) log sigmoid(-z_c)]: cross-entropy of C Bernoullis, in float32.

    Binary classification is C = 1. Hinton et al. 2015, section 2, has the softmax form. The sum over classes is
    the negative log-likelihood of the whole row; it goes with the sum in `soft_multi_labels`.

    Args:
        labels: (B, C) or (B, T, C), 0 or 1, integers, booleans or floats. A row with a number below 0 among
            integers or a NaN among floats is unlabelled: its value means nothing and is left out.
        student: logits z of the same shape.
        teacher: unused.

    Returns:
        (B,) or (B, T) float32, at least 0.

    Raises:
        ValueError: if the labels don't have the logits' shape.
    """
    logits = ops.cast(student.logits, "float32")
    _check_same_shape("true_multi_labels", labels, logits)
    known = ops.cast(ops.where(labelled(labels), labels, ops.zeros_like(labels)), "float32")
    # log sigmoid(z) = -softplus(-z): exact for logits of any size.
    return ops.sum(known * ops.softplus(-logits) + (1 - known) * ops.softplus(logits), axis=-1)


def soft_multi_labels(temperature: float | keras.Variable) -> Loss:
    """T^2 sum_c KL(Bernoulli(sigmoid(teacher_c / T)) || Bernoulli(sigmoid(student_c / T))), in float32.

    Hinton et al. 2015, section 2, with the softmax over (z_c, 0), which is the sigmoid, for each class. As
    exact as `soft_targets`: never below 0, exactly 0 for equal logits.

    Args:
        temperature: T, above 0. A `keras.Variable` can be changed by a callback while `fit` runs.

    Returns:
        A loss; its value has shape (B,) for logits (B, C) and (B, T) for (B, T, C).

    Raises:
        ValueError: if T isn't above 0; the loss, if student and teacher have not the same number of classes.
    """
    positive("temperature", temperature)

    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        _check_same_ends("soft_multi_labels", student.logits, teacher.logits)
        target = _against_zero(ops.cast(teacher.logits, "float32") / temperature)
        guess = _against_zero(ops.cast(student.logits, "float32") / temperature)
        return temperature**2 * ops.sum(kl_divergence(target, guess), axis=-1)

    return loss


@needing(labels=True)
def true_values(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
    """mean_r (y_r - z_r)^2: the squared error of R values, in float32. The teacher isn't looked at.

    Args:
        labels: floats (B, R), or (B,) where R = 1; (B, T, R) or (B, T) for a value a token. A row with a NaN is
            unlabelled: its value means nothing and is left out.
        student: outputs z, (B, R) or (B, T, R).
        teacher: unused.

    Returns:
        (B,) or (B, T) float32, at least 0.

    Raises:
        ValueError: if the labels aren't floats, since below 0 means "unlabelled" among integers, or don't have
            the outputs' shape.
    """
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(labels.dtype)):
        raise ValueError(
            f"labels have dtype {labels.dtype}: true_values takes floats, NaN = unlabelled. "
            "Use labels.astype('float32')."
        )
    values = ops.cast(student.logits, "float32")
    if len(labels.shape) == len(values.shape) - 1 and values.shape[-1] == 1:
        labels = ops.expand_dims(labels, -1)
    _check_same_shape("true_values", labels, values)
    known = ops.cast(ops.where(labelled(labels), labels, ops.zeros_like(labels)), "float32")
    return _mean_square(known - values, shared_mask(student, teacher))


def teacher_values(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
    """mean_r (t_r - z_r)^2: the squared error to the teacher's outputs t, in float32; labels aren't looked at.

    For regression; on the logits of classifiers it is Ba & Caruana 2014, section 2, up to their factor 1/2.

    Returns:
        (B,) for outputs (B, R), (B, T) for (B, T, R), float32, at least 0; exactly 0 for equal outputs.

    Raises:
        ValueError: if student and teacher have not the same number of outputs.
    """
    _check_same_ends("teacher_values", student.logits, teacher.logits)
    difference = ops.cast(teacher.logits, "float32") - ops.cast(student.logits, "float32")
    return _mean_square(difference, shared_mask(student, teacher))


def _mean_square(difference: Tensor, mask: Tensor | None) -> Tensor:
    """(B, R) -> (B,) or (B, T, R) -> (B, T); what the mask hides is 0."""
    if len(difference.shape) == 3:
        difference = at_real_tokens(difference, mask)
    return ops.mean(ops.square(difference), axis=-1)


def _against_zero(logits: Tensor) -> Tensor:
    """(..., C) -> (..., C, 2), whose softmax is (sigmoid(z), sigmoid(-z))."""
    return ops.stack([logits, ops.zeros_like(logits)], axis=-1)


def _check_same_shape(loss: str, labels: Tensor, logits: Tensor) -> None:
    theirs, ours = tuple(labels.shape), tuple(logits.shape)
    if len(theirs) != len(ours) or not all(a == b or None in (a, b) for a, b in zip(theirs, ours, strict=True)):
        raise ValueError(
            f"labels have shape {theirs} and the student's logits {ours}: {loss} needs one label for each "
            "logit. Reshape the labels, or give the student as many logits."
        )


def _check_same_ends(loss: str, student: Tensor, teacher: Tensor) -> None:
    if len(student.shape) != len(teacher.shape) or student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"The student's logits {tuple(student.shape)} and the teacher's {tuple(teacher.shape)} can't be "
            f"compared: {loss} needs the same outputs in the same order on both sides. Give the student "
            f"{teacher.shape[-1]} outputs, or leave {loss} out."
        )
